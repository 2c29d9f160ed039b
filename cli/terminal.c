/* SPDX-License-Identifier: Apache-2.0 */
#include "terminal.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static bool input_is_terminal, output_is_terminal, error_is_terminal, colors;
static bool bar_is_drawn;
static unsigned bar_percent;
static double bar_time;

void terminal_init(void)
{
    /* Opened the wrong way round, so that using them fails as it would have. */
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) < 0)
            break;

    const char *term = getenv("TERM"), *no_color = getenv("NO_COLOR");
    bool dumb = !term || !*term || !strcmp(term, "dumb");
    input_is_terminal = isatty(0);
    output_is_terminal = isatty(1);
    error_is_terminal = isatty(2) && !dumb;
    colors = output_is_terminal && !dumb && !(no_color && *no_color);
}

bool terminal_input(void)
{
    return input_is_terminal;
}

bool terminal_output(void)
{
    return output_is_terminal;
}

unsigned terminal_width(void)
{
    struct winsize size;

    return ioctl(2, TIOCGWINSZ, &size) == 0 && size.ws_col >= 20 ? size.ws_col : 80;
}

const char *terminal_dim(void)
{
    return colors ? "\033[2m" : "";
}

const char *terminal_normal(void)
{
    return colors ? "\033[0m" : "";
}

static void print(const char *prefix, const char *format, va_list arguments)
{
    char text[1024];

    vsnprintf(text, sizeof text, format, arguments);
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    terminal_clear();
    /* what was printed before stands before it, also where both go to one terminal */
    fflush(stdout);
    fprintf(stderr, "%s%s\n", prefix, text);
}

void terminal_error(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    print("scoria: ", format, arguments);
    va_end(arguments);
}

void terminal_warning(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    print("scoria: warning: ", format, arguments);
    va_end(arguments);
}

void terminal_note(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    print("", format, arguments);
    va_end(arguments);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void terminal_progress(const char *label, uint64_t done, uint64_t total)
{
    static const char full[] = "################################################################";
    unsigned percent, width, cells;

    if (!error_is_terminal)
        return;
    if (done >= total) {
        terminal_clear();
        return;
    }
    percent = (unsigned)((double)done * 100 / (double)total);
    if (bar_is_drawn && (percent == bar_percent || now() - bar_time < 0.05))
        return;
    width = terminal_width();
    cells = width > 40 ? width - 30 : 10;
    if (cells > sizeof full - 1)
        cells = sizeof full - 1;
    fprintf(stderr, "\r%-18.18s [%-*.*s] %3u %%\033[K", label, (int)cells, (int)(cells * percent / 100), full, percent);
    fflush(stderr);
    bar_is_drawn = true;
    bar_percent = percent;
    bar_time = now();
}

void terminal_clear(void)
{
    if (!bar_is_drawn)
        return;
    fputs("\r\033[K", stderr);
    fflush(stderr);
    bar_is_drawn = false;
}
