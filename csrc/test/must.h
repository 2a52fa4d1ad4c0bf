/* For all C tests, of csrc/ and of erl/: what must be so. A test program prints what was not, and exits with 1. */
#ifndef MUST_H
#define MUST_H

#include <stdio.h>
#include <stdlib.h>

#define CHECK(what)                                                               \
    do {                                                                          \
        if (!(what)) {                                                            \
            fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #what);    \
            exit(1);                                                              \
        }                                                                         \
    } while (0)

#define CHECK_IS(what, wanted)                                                    \
    do {                                                                          \
        long long got_ = (long long)(what), wanted_ = (long long)(wanted);        \
        if (got_ != wanted_) {                                                    \
            fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #what, got_, wanted_); \
            exit(1);                                                              \
        }                                                                         \
    } while (0)

#endif
