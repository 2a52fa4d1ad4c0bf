/* Two strict readers of external terms, for tests: what a LING takes, and what we are willing to hand to binary_to_term.
 * Written from the formats' descriptions, not from the transcoder: recursive, and free of its tables.
 */
#ifndef READERS_H
#define READERS_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "../../../csrc/test/must.h"

typedef struct {
    const uint8_t *p, *end;
    bool ling;
    bool maps;       /* a LING may get some */
    const char *why; /* it was refused */
} Reader;

static inline bool no(Reader *r, const char *why)
{
    if (r->why == NULL)
        r->why = why;
    return false;
}

static inline uint64_t number(Reader *r, unsigned bytes, bool *ok)
{
    uint64_t n = 0;
    if ((size_t)(r->end - r->p) < bytes) {
        *ok = no(r, "cut short");
        return 0;
    }
    while (bytes-- > 0)
        n = n << 8 | *r->p++;
    return n;
}

static inline bool skip(Reader *r, uint64_t bytes)
{
    if ((uint64_t)(r->end - r->p) < bytes)
        return no(r, "cut short");
    r->p += bytes;
    return true;
}

static inline bool read_name(Reader *r)
{
    bool ok = true;
    unsigned tag = (unsigned)number(r, 1, &ok);
    bool wide = tag == 118 || tag == 119;
    if (tag != 100 && tag != 115 && !wide)
        return no(r, "no atom");
    if (wide && r->ling)
        return no(r, "an atom in UTF-8");
    uint64_t size = number(r, tag == 100 || tag == 118 ? 2 : 1, &ok), chars = 0;
    const uint8_t *text = r->p;
    if (!ok || !skip(r, size))
        return false;
    for (uint64_t i = 0; i < size; i++) {
        if (wide && text[i] >= 0x80) { /* a character by its value: no second way to say it, no surrogate */
            unsigned more = text[i] >= 0xF0 ? 3 : text[i] >= 0xE0 ? 2 : 1;
            uint32_t value = text[i] & (0x3Fu >> more);
            if (text[i] < 0xC0 || text[i] >= 0xF8 || i + more >= size)
                return no(r, "no UTF-8");
            for (unsigned k = 0; k < more; k++) {
                if ((text[++i] & 0xC0) != 0x80)
                    return no(r, "no UTF-8");
                value = value << 6 | (text[i] & 0x3F);
            }
            if (value < (more == 3 ? 0x10000u : more == 2 ? 0x800u : 0x80u) || value > 0x10FFFF ||
                (value >= 0xD800 && value < 0xE000))
                return no(r, "no UTF-8");
        }
        chars++;
    }
    return chars <= 255 || no(r, "a long atom");
}

/* depth: as a LING counts, from 1. */
static inline bool read_term(Reader *r, unsigned depth)
{
    bool ok = true;
    uint64_t n, id;
    unsigned creation;
    if (depth > (r->ling ? 1000 : 1001))
        return no(r, "nested too deep");
    if (r->p == r->end)
        return no(r, "cut short");
    unsigned tag = *r->p;
    if (tag == 100 || tag == 115 || tag == 118 || tag == 119)
        return read_name(r);
    r->p++;
    switch (tag) {
    case 97:
        return skip(r, 1);
    case 98:
        return skip(r, 4);
    case 106:
        return true;
    case 70:
        n = number(r, 8, &ok);
        return ok && ((n >> 52 & 0x7FF) != 0x7FF || no(r, "not finite"));
    case 110:
    case 111:
        n = number(r, tag == 110 ? 1 : 4, &ok);
        id = number(r, 1, &ok);
        if (!ok || !skip(r, n))
            return false;
        if (n < (r->ling ? 2 : 1) || r->p[-1] == 0 || id > 1)
            return no(r, "not the canonical integer");
        return n <= 524280 || !r->ling || no(r, "a huge integer");
    case 107:
        n = number(r, 2, &ok);
        return ok && skip(r, n);
    case 109:
        n = number(r, 4, &ok);
        return ok && skip(r, n);
    case 77:
        n = number(r, 4, &ok);
        id = number(r, 1, &ok);
        return ok && skip(r, n) && ((n > 0 && id >= 1 && id <= 7) || no(r, "a strange bitstring"));
    case 104:
    case 105:
        n = number(r, tag == 104 ? 1 : 4, &ok);
        for (uint64_t i = 0; ok && i < n; i++)
            ok = read_term(r, depth + 1);
        return ok;
    case 108:
        n = number(r, 4, &ok);
        if (ok && n == 0)
            return no(r, "an empty list with a tail");
        for (uint64_t i = 0; ok && i < n + 1; i++)
            ok = read_term(r, depth + 1);
        return ok;
    case 116:
        if (r->ling && !r->maps)
            return no(r, "a map");
        n = number(r, 4, &ok);
        for (uint64_t i = 0; ok && i < 2 * n; i++)
            ok = read_term(r, depth + 1);
        return ok;
    case 113: /* a LING counts the parts */
        if (r->ling && depth + 1 > 1000)
            return no(r, "nested too deep");
        return read_name(r) && read_name(r) && (*r->p == 97 || no(r, "no arity")) && skip(r, 2);
    case 102:
        if (!read_name(r))
            return false;
        id = number(r, 4, &ok);
        creation = (unsigned)number(r, 1, &ok);
        return ok && ((creation <= 3 && (!r->ling || id < 1 << 18)) || no(r, "a port out of range"));
    case 89:
    case 120:
        return r->ling ? no(r, "a new port") : read_name(r) && skip(r, tag == 89 ? 8 : 12);
    case 114:
        n = number(r, 2, &ok);
        if (!ok || n < 1 || n > (r->ling ? 3 : 5))
            return no(r, "words");
        if (!read_name(r))
            return false;
        creation = (unsigned)number(r, 1, &ok);
        id = number(r, 4, &ok);
        return ok && skip(r, 4 * (n - 1)) &&
               ((creation <= 3 && (!r->ling || id < 1 << 18)) || no(r, "a reference out of range"));
    case 90:
        if (r->ling)
            return no(r, "a new reference");
        n = number(r, 2, &ok);
        if (!ok || n < 1 || n > 5)
            return no(r, "words");
        return read_name(r) && skip(r, 4 + 4 * n);
    case 160:
        return r->ling ? skip(r, 16) : no(r, "a LING's pid");
    case 88:
        return r->ling ? no(r, "a BEAM's pid") : read_name(r) && skip(r, 12);
    default:
        return no(r, "another tag");
    }
}

/* NULL, or why the bytes are refused. */
static inline const char *refused(const uint8_t *bytes, size_t size, bool ling, bool maps)
{
    Reader r = {bytes, bytes + size, ling, maps, NULL};
    if (size < 1 || *r.p++ != 131)
        return "no 131";
    if (!read_term(&r, 1))
        return r.why ? r.why : "?";
    return r.p == r.end ? NULL : "more than a term";
}

#endif
