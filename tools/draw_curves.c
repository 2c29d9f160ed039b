/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Draws a table as curves:
 *
 *     draw_curves TITLE OUT.svg <TABLE
 *
 * The table has columns separated by commas and a line of names; its first column is the common, ascending x.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "curve.h"

enum { MAX_COLUMNS = 9, MAX_ROWS = 64 };

struct table {
    char line[4096];
    char *names[MAX_COLUMNS];
    size_t n_columns, n_rows;
    double values[MAX_COLUMNS][MAX_ROWS];
};

static size_t split(char *line, char *cells[MAX_COLUMNS])
{
    size_t n = 0;
    line[strcspn(line, "\n")] = 0;
    for (char *cell = strtok(line, ","); cell && n < MAX_COLUMNS; cell = strtok(NULL, ","))
        cells[n++] = cell;
    return n;
}

static bool read_row(struct table *t)
{
    char line[4096], *cells[MAX_COLUMNS];
    if (!fgets(line, sizeof line, stdin) || t->n_rows == MAX_ROWS || split(line, cells) != t->n_columns)
        return false;
    for (size_t c = 0; c < t->n_columns; c++) {
        char *end;
        t->values[c][t->n_rows] = strtod(cells[c], &end);
        if (*end || end == cells[c])
            return false;
    }
    t->n_rows++;
    return true;
}

int main(int argc, char **argv)
{
    static struct table t;
    struct curve curves[MAX_COLUMNS];
    struct sc_error e = {0};
    double most = 0;
    if (argc != 3 || !fgets(t.line, sizeof t.line, stdin) || (t.n_columns = split(t.line, t.names)) < 2) {
        fprintf(stderr, "usage: draw_curves TITLE OUT.svg <TABLE (a line of names, then numbers, by commas)\n");
        return 2;
    }
    while (read_row(&t))
        ;
    if (!feof(stdin) || t.n_rows < 2) {
        fprintf(stderr, "draw_curves: row %zu is not %zu numbers\n", t.n_rows + 1, t.n_columns);
        return 1;
    }
    for (size_t c = 1; c < t.n_columns; c++) {
        curves[c - 1] = (struct curve){.name = t.names[c], .y = t.values[c]};
        for (size_t r = 0; r < t.n_rows; r++)
            most = t.values[c][r] > most ? t.values[c][r] : most;
    }
    if (!curve_write(argv[2], argv[1], t.names[0], t.values[0], t.n_rows, false, curve_round_up(most), curves,
                     t.n_columns - 1, &e)) {
        fprintf(stderr, "draw_curves: %s\n", e.text);
        return 1;
    }
    return 0;
}
