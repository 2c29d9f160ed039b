/* SPDX-License-Identifier: Apache-2.0 */
#define _XOPEN_SOURCE 700 /* realpath */
#include "save.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool fail(struct save *s, struct sc_error *e)
{
    return sc_fail(e, SC_IO, "%s: %s", strcmp(s->path, "-") ? s->path : "standard output", strerror(errno));
}

static bool open_temporary(struct save *s, bool exists, struct sc_error *e)
{
    static const char ending[] = ".XXXXXX";

    s->target = exists ? realpath(s->path, NULL) : strdup(s->path);
    if (!s->target)
        return fail(s, e);
    size_t size = strlen(s->target) + sizeof ending;

    s->temporary = malloc(size);
    if (!s->temporary)
        return sc_fail_memory(e, s->path);
    snprintf(s->temporary, size, "%s%s", s->target, ending);
    int fd = mkstemp(s->temporary);
    if (fd < 0) {
        fail(s, e);
        free(s->temporary);
        s->temporary = NULL;
        return false;
    }
    /* mkstemp makes it private; a file that the user asked for has the usual mode */
    mode_t mask = umask(0);
    umask(mask);
    fchmod(fd, 0666 & ~mask);
    s->file = fdopen(fd, "wb");
    if (!s->file) {
        close(fd);
        return fail(s, e);
    }
    return true;
}

bool save_open(struct save *s, const char *path, struct sc_error *e)
{
    struct stat status, link;

    *s = (struct save){.path = path};
    if (!strcmp(path, "-")) {
        s->file = stdout;
        return true;
    }
    bool exists = stat(path, &status) == 0;
    if (exists ? !S_ISREG(status.st_mode) : lstat(path, &link) == 0) {
        s->file = fopen(path, "wb");
        return s->file || fail(s, e);
    }
    if (open_temporary(s, exists, e))
        return true;
    save_abandon(s);
    return false;
}

bool save_write(struct save *s, const void *data, size_t size_bytes, struct sc_error *e)
{
    return fwrite(data, 1, size_bytes, s->file) == size_bytes || fail(s, e);
}

bool save_finish(struct save *s, struct sc_error *e)
{
    bool ok = fflush(s->file) == 0 || fail(s, e);

    if (s->file != stdout) {
        if (fclose(s->file) && ok)
            ok = fail(s, e);
        s->file = NULL;
    }
    if (ok && s->temporary && rename(s->temporary, s->target))
        ok = fail(s, e);
    if (ok) {
        free(s->temporary);
        s->temporary = NULL;
    }
    save_abandon(s);
    return ok;
}

void save_abandon(struct save *s)
{
    if (s->file && s->file != stdout)
        fclose(s->file);
    if (s->temporary)
        unlink(s->temporary);
    free(s->temporary);
    free(s->target);
    *s = (struct save){0};
}
