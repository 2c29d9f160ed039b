/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of text cells, printed one by one as they are known: plain columns, Markdown, or CSV. */
#ifndef SCORIA_CLI_TABLE_H
#define SCORIA_CLI_TABLE_H

#include <stdbool.h>
#include <stddef.h>

enum table_format { TABLE_PLAIN, TABLE_MD, TABLE_CSV };

struct column {
    const char *name;
    size_t width; /* at least; the name's own width counts as well, longer cells push the rest of their row */
    bool right;   /* aligned */
};

/* Makes width what `cell` needs, if that is more. */
void column_fit(struct column *column, const char *cell);

void table_header(enum table_format format, const struct column *columns, size_t n_columns);
void table_row(enum table_format format, const struct column *columns, size_t n_columns, const char *const *cells);

#endif
