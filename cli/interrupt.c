/* SPDX-License-Identifier: Apache-2.0 */
#include "interrupt.h"

#include <signal.h>
#include <string.h>

static volatile sig_atomic_t requested;

static void handle(int number)
{
    (void)number;
    requested = 1;
}

void interrupt_catch(void)
{
    struct sigaction action;

    requested = 0;
    memset(&action, 0, sizeof action);
    action.sa_handler = handle;
    /* no SA_RESTART: a read that waits for the user ends with EINTR; the second signal finds the default again */
    action.sa_flags = (int)SA_RESETHAND;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
}

bool interrupt_requested(void)
{
    return requested;
}
