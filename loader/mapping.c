/* SPDX-License-Identifier: Apache-2.0 */
#define _DEFAULT_SOURCE /* madvise */
#include "mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guard.h"
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
    m->fd = fd;
    m->guard = guard_add(data, m->size_bytes);
    if (m->guard)
        return true;
    munmap(data, m->size_bytes);
    return sc_fail(e, SC_UNSUPPORTED, "%s cannot be mapped beside so many other files", sc_printable_path(path).text);
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

    if (map(m, fd, path, e))
        return true;
    close(fd);
    *m = (struct mapping){0};
    return false;
}

void mapping_finish(struct mapping *m)
{
    if (m->data) {
        guard_remove(m->guard);
        munmap((void *)m->data, m->size_bytes);
        close(m->fd);
    }
    *m = (struct mapping){0};
}

bool mapping_lock(const struct mapping *m)
{
    return mlock(m->data, m->size_bytes) == 0;
}

static uint64_t end_of(const struct mapping *m, uint64_t offset, uint64_t size_bytes)
{
    return size_bytes < m->size_bytes - offset ? offset + size_bytes : m->size_bytes;
}

void mapping_prefetch(const struct mapping *m, uint64_t offset, uint64_t size_bytes)
{
    const uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE), first = offset / page_bytes * page_bytes;
    (void)madvise((void *)(m->data + first), (size_t)(end_of(m, offset, size_bytes) - first), MADV_WILLNEED);
}

void mapping_forget(const struct mapping *m, uint64_t offset, uint64_t size_bytes)
{
    const uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
    const uint64_t first = (offset + page_bytes - 1) / page_bytes * page_bytes;
    const uint64_t end = end_of(m, offset, size_bytes) / page_bytes * page_bytes;
    if (first >= end)
        return;
    (void)madvise((void *)(m->data + first), (size_t)(end - first), MADV_DONTNEED); /* or the next would not do it */
    (void)posix_fadvise(m->fd, (off_t)first, (off_t)(end - first), POSIX_FADV_DONTNEED);
}

bool mapping_check(const struct mapping *m, const char *path, struct sc_error *e)
{
    return !guard_was_hit(m->guard) ||
           sc_fail(e, SC_IO, "%s was truncated or could not be read while it was in use", sc_printable_path(path).text);
}
