/* Within the encoder: encode.c is the loop, encode_leaf.c what has no terms inside, encode_key.c the comparison of keys
 * of maps. */
#ifndef STRAWBRIDGE_ETF_ENCODE_H
#define STRAWBRIDGE_ETF_ENCODE_H

#include "etf.h"

#define ENCODER_FRAMES 24

typedef enum { E_LIST, E_TUPLE, E_DICT, E_PAIRS, E_IMPROPER, E_FREE, E_VALUES } FrameKind;

typedef struct {
    FrameKind kind;
    PyObject *obj;      /* the container as the user knows it */
    PyObject *items;    /* the tuple or list in it that is walked; E_DICT: the value that is next */
    Py_ssize_t i, n;    /* elements begun, elements in all */
    Py_ssize_t dict_at;
    PyObject *key;      /* E_DICT: the key of the value that is next or being written */
    int value_next;     /* E_DICT, E_PAIRS: the key is being written, its value comes next */
    int in_key;         /* within a key whose map will be checked as a whole */
    int classes;        /* E_DICT: what kinds of keys there were */
    size_t first_mark;  /* E_DICT, E_PAIRS: of the encoder's marks, where canonical */
    uint8_t *head;      /* E_FREE: where the size of the fun goes */
    uint64_t head_at;   /* E_FREE: the same as a position */
} Frame;

typedef struct {
    const EncodeOptions *o;
    State *state;
    Writer *w;
    int canonical;     /* maps in the order of their keys' bytes: for comparing terms, not for peers */
    uint64_t *marks;   /* canonical: where keys and values of the open maps begin */
    size_t mark_count, mark_room;
    Frame *stack;
    Py_ssize_t depth, room, max_depth;
    int funs;          /* funs that are being written: their size is filled in at the end, so nothing is passed on */
    int (*pass)(Writer *w, PyObject *big_bytes);
    Frame inline_frames[ENCODER_FRAMES];
} Encoder;

/* Raise EncodeError(reason, path); takes the pending exception's place if there is one. Always -1. */
int refuse(Encoder *e, const char *format, ...);

/* Each writes one term; -1 and an exception. */
int put_atom(Encoder *e, const Atom *atom);
int put_big(Encoder *e, PyObject *value);
int put_float(Encoder *e, double number);
int put_bytes(Encoder *e, const char *data, Py_ssize_t length, PyObject *owner);
int put_str(Encoder *e, PyObject *text);
int put_pid(Encoder *e, const Pid *pid);
int put_plain_pid(Encoder *e, const Pid *pid); /* whatever the domain */
int put_port(Encoder *e, const Port *port);
int put_reference(Encoder *e, const Reference *ref);
int put_plain_reference(Encoder *e, const Reference *ref);
int put_view(Encoder *e, PyObject *value);
int put_export(Encoder *e, PyObject *value);
int put_bits(Encoder *e, PyObject *value);
int put_ling_pid(Encoder *e, PyObject *value);

/* The same between domains (crossing.c). is_alias: is this `[alias|Ref]`, which crosses as one reference of a table? */
int cross_pid(Encoder *e, const Pid *pid);
int cross_reference(Encoder *e, const Reference *ref);
int is_alias(const Crossing *c, PyObject *items, PyObject *tail);
int cross_alias(Encoder *e, PyObject *improper);

/* A field of a record, checked: what a user wrote into one may be anything. */
int field_atom(Encoder *e, RecordKind kind, PyObject *record, int field);
int field_word(Encoder *e, RecordKind kind, PyObject *record, int field, uint64_t limit, uint64_t *word);

/* What a key is made of. Keys that Python keeps apart may be one term only when str meets bytes, Atom meets True, False
 * or None, or one holds something of another kind (a subclass, a list, a map). */
enum { K_STR = 1, K_BYTES = 2, K_ATOM = 4, K_WORD = 8, K_NUMBER = 16, K_OTHER = 32 };
int key_classes(State *state, PyObject *key, int depth);

static inline int keys_may_meet(int classes)
{
    return (classes & K_OTHER) || (classes & (K_STR | K_BYTES)) == (K_STR | K_BYTES) ||
           (classes & (K_ATOM | K_WORD)) == (K_ATOM | K_WORD);
}

/* One bytes object that is the same for two terms exactly when they are =:=. */
PyObject *canonical_bytes(const EncodeOptions *options, PyObject *term);
/* Are no two keys of a dict (pairs is NULL) or of a tuple of pairs one term? 1, 0, -1 and an exception. */
int distinct_keys(const EncodeOptions *o, PyObject *dict, PyObject *pairs);
/* For canonical maps: note where a key or value begins; put the pairs of a map that ends here in order (EncodeError
 * when two keys are one term). */
int mark_position(Encoder *e);
int sort_pairs(Encoder *e, const Frame *f);

int encode_nested(const EncodeOptions *o, Writer *w, PyObject *term, int canonical);

/* An integer that fits 64 bits. Room for 11 bytes is there. */
static inline uint8_t *put_i64(uint8_t *p, int64_t value)
{
    if (value >= 0 && value < 256) {
        p[0] = TAG_SMALL_INTEGER;
        p[1] = (uint8_t)value;
        return p + 2;
    }
    if (value >= INT32_MIN && value <= INT32_MAX) {
        p[0] = TAG_INTEGER;
        put32(p + 1, (uint32_t)value);
        return p + 5;
    }
    uint64_t magnitude = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    int count = 8 - __builtin_clzll(magnitude) / 8;
    p[0] = TAG_SMALL_BIG;
    p[1] = (uint8_t)count;
    p[2] = value < 0;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    magnitude = __builtin_bswap64(magnitude);
#endif
    memcpy(p + 3, &magnitude, 8);
    return p + 3 + count;
}

/* The value of a one-digit int, and whether it is one. */
static inline int compact_int(PyObject *value, int64_t *out)
{
#if PY_VERSION_HEX >= 0x030C0000
    if (!PyUnstable_Long_IsCompact((PyLongObject *)value))
        return 0;
    *out = PyUnstable_Long_CompactValue((PyLongObject *)value);
    return 1;
#else
    Py_ssize_t size = Py_SIZE(value);
    if (size < -1 || size > 1)
        return 0;
    *out = size == 0 ? 0 : (int64_t)size * (int64_t)((PyLongObject *)value)->ob_digit[0];
    return 1;
#endif
}

static inline int put_int(Encoder *e, PyObject *value)
{
    int64_t small;
    if (!compact_int(value, &small))
        return put_big(e, value);
    if (writer_need(e->w, 16) < 0)
        return -1;
    e->w->p = put_i64(e->w->p, small);
    return 0;
}

#endif
