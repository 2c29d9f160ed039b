/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libFuzzer target: any bytes as a model file. Built with -DSCORIA_FUZZ=ON and clang; give it a folder
 * with a few small models to start from.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include "load_everything.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

static char path[] = "/tmp/fuzz_gguf.XXXXXX";
static int fd = -1;

static void remove_file(void)
{
    unlink(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    if (fd < 0) {
        fd = mkstemp(path);
        atexit(remove_file);
    }
    if (fd < 0 || ftruncate(fd, 0) != 0 || pwrite(fd, data, size_bytes, 0) != (ssize_t)size_bytes)
        abort();

    struct sc_error e = {0};
    bool ok = load_everything(path, &e);
    if (ok != (e.code == SC_OK) || ok == (e.text[0] != 0))
        abort();
    return 0;
}
