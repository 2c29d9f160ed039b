# SPDX-License-Identifier: Apache-2.0
# Writes the SPIR-V words of SPV as the C array NAME into OUT.
file(READ ${SPV} hex HEX)
string(REGEX REPLACE "(..)(..)(..)(..)" "0x\\4\\3\\2\\1,\n" words "${hex}")
file(WRITE ${OUT} "static const uint32_t ${NAME}[] = {\n${words}};\n")
