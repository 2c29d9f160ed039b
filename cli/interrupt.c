/* SPDX-License-Identifier: Apache-2.0 */
#include "interrupt.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t requested;
static int ends[2] = {-1, -1}; /* of a pipe that holds a byte for each signal */

static void handle(int number)
{
    int saved = errno;

    (void)number;
    requested = 1;
    if (write(ends[1], "", 1) < 0) /* without the pipe, or when it is full, the flag alone must do */
        errno = saved;
}

static void make_pipe(void)
{
    if (ends[0] >= 0 || pipe(ends))
        return;
    for (int i = 0; i < 2; i++) {
        fcntl(ends[i], F_SETFL, O_NONBLOCK);
        fcntl(ends[i], F_SETFD, FD_CLOEXEC);
    }
}

static void set(void (*handler)(int), int flags)
{
    struct sigaction action;

    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    action.sa_flags = flags;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
}

void interrupt_catch(void)
{
    char bytes[64];

    make_pipe();
    while (ends[0] >= 0 && read(ends[0], bytes, sizeof bytes) > 0)
        ;
    requested = 0;
    /* drivers need not know of EINTR; the second signal finds the default again */
    set(handle, SA_RESTART | (int)SA_RESETHAND);
}

void interrupt_leave(void)
{
    set(SIG_DFL, 0);
}

bool interrupt_requested(void)
{
    return requested;
}

int interrupt_fd(void)
{
    return ends[0];
}
