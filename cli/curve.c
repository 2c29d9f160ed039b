/* SPDX-License-Identifier: Apache-2.0 */
#include "curve.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { WIDTH = 720, HEIGHT = 440, LEFT = 60, RIGHT = 150, TOP = 40, BOTTOM = 50, N_LINES = 5 };

static double at(double value, double from, double to, double first, double last)
{
    return first + (value - from) / (to - from) * (last - first);
}

double curve_round_up(double most)
{
    double unit = 1;
    while (unit * 5 < most)
        unit *= unit * 5 * 2 >= most ? 2 : unit * 5 * 5 >= most ? 5 : 10;
    return 5 * unit;
}

static double place(const double *x, size_t n, bool log_x, size_t i)
{
    return log_x ? at(log(x[i]), log(x[0]), log(x[n - 1]), LEFT, WIDTH - RIGHT)
                 : at(x[i], x[0], x[n - 1], LEFT, WIDTH - RIGHT);
}

bool curve_write(const char *path, const char *title, const char *x_name, const double *x, size_t n, bool log_x,
                 double y_max, const struct curve *curves, size_t n_curves, struct sc_error *e)
{
    static const char *const colours[] = {"#888888", "#c8a000", "#d03010", "#3070c0", "#208040", "#8040a0"};
    FILE *f = fopen(path, "w");
    if (!f)
        return sc_fail(e, SC_IO, "%s: %s", path, strerror(errno));
    fprintf(f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" "
            "font-size=\"13\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n"
            "<text x=\"%d\" y=\"24\" font-size=\"15\">%s</text>\n",
            WIDTH, HEIGHT, LEFT, title);
    for (int i = 0; i <= N_LINES; i++) {
        const double value = y_max * i / N_LINES, y = at(value, 0, y_max, HEIGHT - BOTTOM, TOP);
        fprintf(f,
                "<path d=\"M%d %.1fH%d\" stroke=\"#dddddd\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n",
                LEFT, y, WIDTH - RIGHT, LEFT - 8, y + 4, value);
    }
    for (size_t i = 0; i < n; i++)
        fprintf(f, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g</text>\n", place(x, n, log_x, i),
                HEIGHT - BOTTOM + 18, x[i]);
    fprintf(f, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10,
            x_name);
    for (size_t c = 0; c < n_curves; c++) {
        const char *colour = colours[c % (sizeof colours / sizeof colours[0])];
        fprintf(f, "<polyline fill=\"none\" stroke-width=\"2\" stroke=\"%s\" points=\"", colour);
        for (size_t i = 0; i < n; i++)
            fprintf(f, "%.1f,%.1f ", place(x, n, log_x, i), at(curves[c].y[i], 0, y_max, HEIGHT - BOTTOM, TOP));
        fprintf(f, "\"/>\n<text x=\"%d\" y=\"%d\" fill=\"%s\">%s</text>\n", WIDTH - RIGHT + 12, TOP + 20 * (int)c + 10,
                colour, curves[c].name);
    }
    fprintf(f, "</svg>\n");
    const bool ok = !ferror(f);
    return (fclose(f) == 0 && ok) || sc_fail(e, SC_IO, "%s could not be written", path);
}
