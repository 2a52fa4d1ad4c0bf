/* Python's big integers by their digits, where we know the layout; the public calls elsewhere.
 *
 * CPython 3.11 to 3.13 with 30-bit digits: read and written here, because _PyLong_FromByteArray goes byte by byte. Any
 * other build takes the fallback. Tests compare both for every width.
 */
#ifndef STRAWBRIDGE_ETF_LONG_H
#define STRAWBRIDGE_ETF_LONG_H

#include "etf.h"

#if PY_VERSION_HEX < 0x030E0000 && PYLONG_BITS_IN_DIGIT == 30 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ && \
    !defined(ETF_PUBLIC_LONG)
#define ETF_KNOWN_LONG 1
#define DIGIT_MASK ((1u << 30) - 1)

#if PY_VERSION_HEX >= 0x030C0000
static inline digit *long_digits(PyObject *v)
{
    return ((PyLongObject *)v)->long_value.ob_digit;
}
static inline void long_set_size(PyObject *v, size_t count, int negative)
{
    ((PyLongObject *)v)->long_value.lv_tag = (uintptr_t)count << 3 | (negative ? 2 : 0);
}
static inline size_t long_digit_count(PyObject *v)
{
    return ((PyLongObject *)v)->long_value.lv_tag >> 3;
}
static inline int long_is_negative(PyObject *v)
{
    return (((PyLongObject *)v)->long_value.lv_tag & 3) == 2;
}
#else
static inline digit *long_digits(PyObject *v)
{
    return ((PyLongObject *)v)->ob_digit;
}
static inline void long_set_size(PyObject *v, size_t count, int negative)
{
    Py_SET_SIZE(v, negative ? -(Py_ssize_t)count : (Py_ssize_t)count);
}
static inline size_t long_digit_count(PyObject *v)
{
    return (size_t)Py_ABS(Py_SIZE(v));
}
static inline int long_is_negative(PyObject *v)
{
    return Py_SIZE(v) < 0;
}
#endif

/* An int of magnitude below 2^60 that is none of Python's shared small ones. Room for two digits always, so that the
 * size needs no branch that the processor guesses wrong half the time. */
static inline PyObject *long_from_u60(uint64_t magnitude, int negative)
{
    PyObject *v = (PyObject *)_PyLong_New(2);
    if (v == NULL)
        return NULL;
    digit *digits = long_digits(v);
    digits[0] = (digit)(magnitude & DIGIT_MASK);
    digits[1] = (digit)(magnitude >> 30);
    long_set_size(v, 1 + (magnitude >> 30 != 0), negative);
    return v;
}

/* The same for all of 64 bits. */
static inline PyObject *long_from_u64(uint64_t magnitude, int negative)
{
    if (magnitude >> 60 == 0)
        return long_from_u60(magnitude, negative);
    PyObject *v = (PyObject *)_PyLong_New(3);
    if (v == NULL)
        return NULL;
    digit *digits = long_digits(v);
    digits[0] = (digit)(magnitude & DIGIT_MASK);
    digits[1] = (digit)(magnitude >> 30 & DIGIT_MASK);
    digits[2] = (digit)(magnitude >> 60);
    long_set_size(v, 3, negative);
    return v;
}

/* count bytes of magnitude, little end first, more than 8, the last not zero. */
static inline PyObject *long_from_bytes(const uint8_t *bytes, size_t count, int negative)
{
    size_t bits = count * 8 - (size_t)(__builtin_clz(bytes[count - 1]) - 24), n = (bits + 29) / 30;
    PyObject *v = (PyObject *)_PyLong_New((Py_ssize_t)n);
    if (v == NULL)
        return NULL;
    digit *digits = long_digits(v);
    size_t i = 0, at = 0;
    /* fifteen bytes are four digits; sixteen are read */
    for (; at + 16 <= count && i + 4 <= n; at += 15, i += 4) {
        uint64_t low, high;
        memcpy(&low, bytes + at, 8);
        memcpy(&high, bytes + at + 7, 8); /* bits 56 to 119 */
        digits[i] = (digit)(low & DIGIT_MASK);
        digits[i + 1] = (digit)(low >> 30 & DIGIT_MASK);
        digits[i + 2] = (digit)(high >> 4 & DIGIT_MASK);
        digits[i + 3] = (digit)(high >> 34 & DIGIT_MASK);
    }
    for (; i < n; i++) {
        uint64_t part;
        size_t from = 30 * i / 8;
        if (from + 8 <= count) {
            memcpy(&part, bytes + from, 8);
        } else { /* the last eight bytes, less those before */
            memcpy(&part, bytes + count - 8, 8);
            part >>= 8 * (from + 8 - count);
        }
        digits[i] = (digit)(part >> 30 * i % 8 & DIGIT_MASK);
    }
    long_set_size(v, n, negative);
    return v;
}

/* Bits of the magnitude; not for zero. */
static inline size_t long_bits(PyObject *v)
{
    size_t n = long_digit_count(v);
    return n * 30 - (size_t)(__builtin_clz(long_digits(v)[n - 1]) - 2);
}

/* The magnitude's bytes, little end first, into p, where there is room for 8 more than needed. */
static inline void long_to_bytes(PyObject *v, uint8_t *p)
{
    size_t n = long_digit_count(v), i = 0;
    const digit *digits = long_digits(v);
    for (; i + 4 <= n; i += 4, p += 15) {
        uint64_t low = digits[i] | (uint64_t)digits[i + 1] << 30 | (uint64_t)digits[i + 2] << 60;
        uint64_t high = digits[i + 2] >> 4 | (uint64_t)digits[i + 3] << 26;
        memcpy(p, &low, 8);
        memcpy(p + 8, &high, 7);
    }
    uint64_t held = 0;
    unsigned have = 0;
    for (; i < n; i++) {
        held |= (uint64_t)digits[i] << have;
        have += 30;
        while (have >= 8) {
            *p++ = (uint8_t)held;
            held >>= 8;
            have -= 8;
        }
    }
    if (have > 0)
        *p = (uint8_t)held;
}
#endif

#endif
