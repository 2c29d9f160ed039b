/* SPDX-License-Identifier: Apache-2.0 */
/* Ctrl-C asks to stop, and only a second one kills: whoever works looks at interrupt_requested. */
#ifndef SCORIA_CLI_INTERRUPT_H
#define SCORIA_CLI_INTERRUPT_H

#include <stdbool.h>

void interrupt_catch(void); /* from now on; forgets what was requested before */
void interrupt_leave(void); /* from now on the first one kills */
bool interrupt_requested(void);

/* A descriptor that can be read from when interrupt_requested, to wait for both that and something else; -1: none. */
int interrupt_fd(void);

#endif
