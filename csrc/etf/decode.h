/* Within the decoder: decode.c is the loop, decode_leaf.c what has no terms inside. */
#ifndef STRAWBRIDGE_ETF_DECODE_H
#define STRAWBRIDGE_ETF_DECODE_H

#include "etf.h"

static const char TRUNCATED[] = "the data ends within a term";

/* Note what is wrong, and where. Always -1. */
static inline int fail(Decoder *d, const uint8_t *at, const char *error)
{
    d->error = error;
    d->error_at = at;
    return -1;
}

int option_size(PyObject *value, const char *name, Py_ssize_t *size); /* 0 or more; -1 and an exception */

/* Each takes p at the tag and gives the byte after the leaf, or NULL: then d->error says why, or is NULL and a Python
 * exception is set. What they put into *value is a new reference. */
const uint8_t *read_atom(Decoder *d, const uint8_t *p, Atom **atom);
const uint8_t *read_pid(Decoder *d, const uint8_t *p, PyObject **value);
const uint8_t *read_port(Decoder *d, const uint8_t *p, PyObject **value);
const uint8_t *read_reference(Decoder *d, const uint8_t *p, PyObject **value);
const uint8_t *read_int(Decoder *d, const uint8_t *p, PyObject **value);
const uint8_t *read_float(Decoder *d, const uint8_t *p, PyObject **value);
const uint8_t *read_binary(Decoder *d, const uint8_t *p, PyObject **value);
const uint8_t *read_string(Decoder *d, const uint8_t *p, PyObject **value);
const uint8_t *read_export(Decoder *d, const uint8_t *p, PyObject **value);
const uint8_t *read_ling_pid(Decoder *d, const uint8_t *p, PyObject **value);
/* Between domains (crossing.c): a pid; and *value, just read from `tag`, becomes what it means here. tail: it is the tail
 * of a list. -1: as NULL above. */
const uint8_t *read_crossing_pid(Decoder *d, const uint8_t *p, PyObject **value);
int turn_reference(Decoder *d, uint8_t tag, int tail, PyObject **value);

/* A fun up to its free variables: *fun gets all fields but FUN_FREE, *count the number of those, *end where the fun
 * ends. A record up to its values; owed: bytes that what is around it still needs. */
const uint8_t *read_fun_head(Decoder *d, const uint8_t *p, PyObject **fun, Py_ssize_t *count, const uint8_t **end);
const uint8_t *read_record_head(Decoder *d, const uint8_t *p, size_t owed, PyObject **record, Py_ssize_t *count);

#endif
