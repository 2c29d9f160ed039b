/* SPDX-License-Identifier: Apache-2.0 */
/* Ctrl-C asks to stop, and only a second one kills: whoever works looks at interrupt_requested. */
#ifndef SCORIA_CLI_INTERRUPT_H
#define SCORIA_CLI_INTERRUPT_H

#include <stdbool.h>

void interrupt_catch(void); /* from now on; forgets what was requested before */
bool interrupt_requested(void);

#endif
