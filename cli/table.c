/* SPDX-License-Identifier: Apache-2.0 */
#include "table.h"

#include <string.h>

#include "output.h"

/* Columns on the screen, near enough: one a character. */
static size_t width(const char *text)
{
    size_t n = 0;

    for (; *text; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

static size_t column_width(const struct column *column)
{
    size_t name = width(column->name);

    return column->width > name ? column->width : name;
}

void column_fit(struct column *column, const char *cell)
{
    if (width(cell) > column->width)
        column->width = width(cell);
}

static void csv_cell(const char *cell)
{
    output_printf("\"");
    for (; *cell; cell++)
        output_printf("%s%c", *cell == '"' ? "\"" : "", *cell);
    output_printf("\"");
}

static void padded_cell(const struct column *column, const char *cell, bool is_last_plain)
{
    size_t wanted = column_width(column), has = width(cell);
    int padding = has < wanted ? (int)(wanted - has) : 0;

    if (column->right)
        output_printf("%*s%s", padding, "", cell);
    else
        output_printf("%s%*s", cell, is_last_plain ? 0 : padding, "");
}

void table_row(enum table_format format, const struct column *columns, size_t n_columns, const char *const *cells)
{
    for (size_t i = 0; i < n_columns; i++) {
        if (format == TABLE_CSV) {
            output_printf(i ? "," : "");
            csv_cell(cells[i]);
        } else {
            output_printf(format == TABLE_MD ? "| " : i ? "  " : "");
            padded_cell(&columns[i], cells[i], format == TABLE_PLAIN && i + 1 == n_columns);
            output_printf(format == TABLE_MD ? " " : "");
        }
    }
    output_printf(format == TABLE_MD ? "|\n" : "\n");
    output_flush();
}

void table_header(enum table_format format, const struct column *columns, size_t n_columns)
{
    for (size_t i = 0; i < n_columns; i++) {
        if (format == TABLE_CSV) {
            output_printf("%s%s", i ? "," : "", columns[i].name);
        } else {
            output_printf(format == TABLE_MD ? "| " : i ? "  " : "");
            padded_cell(&columns[i], columns[i].name, format == TABLE_PLAIN && i + 1 == n_columns);
            output_printf(format == TABLE_MD ? " " : "");
        }
    }
    output_printf(format == TABLE_MD ? "|\n" : "\n");
    for (size_t i = 0; format == TABLE_MD && i < n_columns; i++) {
        output_printf("| ");
        for (size_t n = column_width(&columns[i]) - columns[i].right; n > 0; n--)
            output_printf("-");
        output_printf(columns[i].right ? ": " : " ");
    }
    if (format == TABLE_MD)
        output_printf("|\n");
    output_flush();
}
