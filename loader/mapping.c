/* SPDX-License-Identifier: Apache-2.0 */
#include "mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "printable.h"

static bool map(struct mapping *m, int fd, const char *path, struct sc_error *e)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return sc_fail(e, SC_IO, "%s: %s", sc_printable_path(path).text, strerror(errno));
    if (S_ISDIR(st.st_mode))
        return sc_fail(e, SC_IO, "%s is a directory, not a model file", sc_printable_path(path).text);
    if (!S_ISREG(st.st_mode))
        return sc_fail(e, SC_IO, "%s is not a regular file", sc_printable_path(path).text);
    if (st.st_size == 0)
        return sc_fail(e, SC_BAD_FILE, "%s is empty", sc_printable_path(path).text);
    if ((uintmax_t)st.st_size > SIZE_MAX)
        return sc_fail(e, SC_UNSUPPORTED, "%s has %jd bytes, more than this machine's addresses reach",
                       sc_printable_path(path).text, (intmax_t)st.st_size);

    void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED)
        return sc_fail(e, SC_IO, "%s cannot be mapped: %s", sc_printable_path(path).text, strerror(errno));
    m->data = data;
    m->size_bytes = (size_t)st.st_size;
    return true;
}

bool mapping_init(struct mapping *m, const char *path, struct sc_error *e)
{
    *m = (struct mapping){0};

    /* Without O_NONBLOCK, opening a FIFO would wait for its writer. It means nothing for a regular file. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT)
        return sc_fail(e, SC_IO, "%s: no such file", sc_printable_path(path).text);
    if (fd < 0)
        return sc_fail(e, SC_IO, "%s cannot be opened: %s", sc_printable_path(path).text, strerror(errno));

    bool ok = map(m, fd, path, e);
    close(fd);
    return ok;
}

void mapping_finish(struct mapping *m)
{
    if (m->data)
        munmap((void *)m->data, m->size_bytes);
    *m = (struct mapping){0};
}
