/* Bytes to terms (erl_ext_dist). Iterative, every read checked, no Python code run except the hash and equality of
 * Export and BitString map keys.
 *
 * Memory is justified by the input: a container is allocated only when the bytes that are left, less one for each
 * element that the containers around it still wait for, can hold its elements.
 */
#include "crossing.h"
#include "decode.h"
#include "long.h"

typedef enum { F_ROOT, F_TUPLE, F_LIST, F_APPEND, F_TAIL, F_DICT, F_PAIRS, F_FUN, F_RECORD } FrameKind;

typedef struct {
    FrameKind kind;
    PyObject *obj;      /* what is being filled */
    PyObject **slot;    /* next element of a tuple or list */
    Py_ssize_t left;    /* elements still to come; keys and values both count */
    size_t owed;        /* bytes that the frames around this one need at least */
    PyObject *key;      /* of a map, while its value is read */
    PyObject *extra;    /* F_FUN, F_RECORD: the record whose last field obj becomes */
    const uint8_t *at;  /* where the term began, or for F_DICT where the key did */
    const uint8_t *end; /* F_FUN: where its announced size ends */
    int in_key;         /* within a key of a map; that map then keeps pairs, and compares its keys to their depths */
} Frame;

#define INLINE_FRAMES 32

/* ---- maps ---- */

/* May Python's dict keep this key? Lists and maps can't be hashed; the rest would lose or cost too much. */
static int key_fits(State *state, PyObject *key, int depth)
{
    PyTypeObject *type = Py_TYPE(key);
    if (type == &PyBytes_Type || type == state->atom_type || type == &PyLong_Type || type == &PyFloat_Type ||
        type == &PyBool_Type || type == state->pid_type || type == state->reference_type ||
        type == state->port_type || type == state->records[R_EXPORT].type || type == state->records[R_BITS].type)
        return 1;
    if (type != &PyTuple_Type || depth == MAX_KEY_DEPTH)
        return 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(key); i++)
        if (!key_fits(state, PyTuple_GET_ITEM(key, i), depth + 1))
            return 0;
    return 1;
}

/* Are two keys that fit one term? -1 with an exception. */
static int same_key(PyObject *a, PyObject *b)
{
    if (a == b)
        return 1;
    if (Py_TYPE(a) != Py_TYPE(b) || PyBool_Check(a))
        return 0;
    if (PyFloat_CheckExact(a))
        return memcmp(&((PyFloatObject *)a)->ob_fval, &((PyFloatObject *)b)->ob_fval, sizeof(double)) == 0;
    if (PyTuple_CheckExact(a)) {
        Py_ssize_t n = PyTuple_GET_SIZE(a);
        int same = n == PyTuple_GET_SIZE(b);
        for (Py_ssize_t i = 0; same == 1 && i < n; i++)
            same = same_key(PyTuple_GET_ITEM(a, i), PyTuple_GET_ITEM(b, i));
        return same;
    }
    return PyObject_RichCompareBool(a, b, Py_EQ);
}

/* The dict so far as a list of pairs, to go on with keys that a dict can't take. */
static PyObject *dict_to_pairs(PyObject *dict)
{
    PyObject *pairs = PyList_New(0), *key, *value;
    Py_ssize_t at = 0;
    while (pairs != NULL && PyDict_Next(dict, &at, &key, &value)) {
        PyObject *pair = PyTuple_Pack(2, key, value);
        if (pair == NULL || PyList_Append(pairs, pair) < 0)
            Py_CLEAR(pairs);
        Py_XDECREF(pair);
    }
    return pairs;
}

static int append_pair(PyObject *pairs, PyObject *key, PyObject *value)
{
    PyObject *pair = PyTuple_Pack(2, key, value);
    int result = pair == NULL ? -1 : PyList_Append(pairs, pair);
    Py_XDECREF(pair);
    return result;
}

/* Key and value (borrowed) into a map's frame; turns a dict into pairs when it must. Sets d->error on failure. */
static int map_insert(Decoder *d, Frame *f, PyObject *value)
{
    d->error = NULL;
    if (f->kind == F_DICT) {
        PyTypeObject *type = Py_TYPE(f->key);
        if (type == &PyBytes_Type || type == d->state->atom_type || key_fits(d->state, f->key, 0)) {
            Py_ssize_t before = PyDict_GET_SIZE(f->obj);
            if (PyDict_SetDefault(f->obj, f->key, value) == NULL)
                return -1;
            if (PyDict_GET_SIZE(f->obj) > before)
                return 0;
            /* an equal key is there: a duplicate, or another term that Python can't tell from it */
            PyObject *key;
            Py_ssize_t at = 0;
            int equal = 0;
            while (equal == 0 && PyDict_Next(f->obj, &at, &key, NULL))
                if ((equal = PyObject_RichCompareBool(key, f->key, Py_EQ)) > 0 && same_key(key, f->key) > 0)
                    return fail(d, f->at, "a map with the same key twice");
            if (equal < 0)
                return -1;
        }
        PyObject *pairs = dict_to_pairs(f->obj);
        if (pairs == NULL)
            return -1;
        Py_SETREF(f->obj, pairs);
        f->kind = F_PAIRS;
    }
    return append_pair(f->obj, f->key, value);
}

static PyObject *finish_pairs(Decoder *d, Frame *f)
{
    d->error = NULL;
    PyObject *pairs = PyList_AsTuple(f->obj);
    int distinct = pairs == NULL ? -1 : f->in_key ? 1 : keys_are_distinct(d->state, pairs);
    if (distinct < 0 && pairs != NULL && d->state->encode_error && PyErr_ExceptionMatches(d->state->encode_error)) {
        PyErr_Clear();
        fail(d, f->at, "a key of a map holds the same key twice, or is nested too deep");
    }
    PyObject *map = distinct == 1 ? record_new(d->state, R_MAP) : NULL;
    if (map == NULL) {
        if (distinct == 0)
            fail(d, f->at, "a map with the same key twice");
        Py_XDECREF(pairs);
        return NULL;
    }
    record_set(d->state, R_MAP, map, MAP_PAIRS, pairs);
    return map;
}

/* List and tail (stolen both) as an ImproperList. */
static PyObject *improper_list(State *state, PyObject *list, PyObject *tail)
{
    PyObject *items = PyList_AsTuple(list);
    PyObject *value = items == NULL ? NULL : record_new(state, R_IMPROPER);
    Py_DECREF(list);
    if (value == NULL) {
        Py_XDECREF(items);
        Py_DECREF(tail);
        return NULL;
    }
    record_set(state, R_IMPROPER, value, IMPROPER_ITEMS, items);
    record_set(state, R_IMPROPER, value, IMPROPER_TAIL, tail);
    return value;
}

static int extend_list(PyObject *list, PyObject *more)
{
    Py_ssize_t n = PyList_GET_SIZE(list);
    return PyList_SetSlice(list, n, n, more);
}

static PyObject *new_dict(size_t count)
{
#if PY_VERSION_HEX < 0x030D0000
    return count > 5 ? _PyDict_NewPresized((Py_ssize_t)count) : PyDict_New();
#else
    (void)count;
    return PyDict_New();
#endif
}

/* ---- the loop ---- */

PyObject *decode_term(Decoder *d, const uint8_t **at)
{
    State *const state = d->state;
    const uint8_t *p = *at;
    const uint8_t *const end = d->end;
    Frame inline_frames[INLINE_FRAMES], *stack = inline_frames;
    Py_ssize_t room = INLINE_FRAMES, depth = 0;
    Frame f = {F_ROOT, NULL, NULL, 1, 0, NULL, NULL, p, NULL, 0};
    PyObject *v = NULL, *extra;
    Atom *atom;
    size_t count;
    FrameKind kind;
    const uint8_t *begin, *q, *fun_end;

    for (;;) {
        v = NULL; /* what it was has an owner by now */
        if (p >= end) {
            fail(d, end, TRUNCATED);
            goto failed;
        }
        begin = p;
        switch (*p) {
        case TAG_SMALL_INTEGER:
            if (end - p < 2)
                goto truncated;
            v = Py_NewRef(state->small[p[1]]);
            p += 2;
            break;
        case TAG_INTEGER:
            for (;;) {
                if (end - p < 5)
                    goto truncated;
                int32_t number = (int32_t)get32(p + 1);
#ifdef ETF_KNOWN_LONG
                if (number > 256 || number < -5)
                    v = long_from_u60(number < 0 ? 0 - (uint64_t)number : (uint64_t)number, number < 0);
                else
#endif
                    v = PyLong_FromLong(number);
                if (v == NULL)
                    goto raised;
                p += 5;
                /* a list of many alike: no way through the whole loop for each */
                if (f.kind != F_LIST || f.left == 1 || p == end || *p != TAG_INTEGER)
                    break;
                *f.slot++ = v;
                f.left--;
                v = NULL;
            }
            break;
        case TAG_SMALL_BIG:
        case TAG_LARGE_BIG:
            if ((q = read_int(d, p, &v)) == NULL)
                goto leaf_failed;
            p = q;
            break;
        case TAG_NEW_FLOAT:
            for (;;) {
                double number;
                if (end - p < 9)
                    goto truncated;
                uint64_t bits = get64(p + 1);
                if ((bits & 0x7FF0000000000000u) == 0x7FF0000000000000u) {
                    fail(d, p, "a float that is not finite");
                    goto failed;
                }
                memcpy(&number, &bits, 8);
                if ((v = PyFloat_FromDouble(number)) == NULL)
                    goto raised;
                p += 9;
                if (f.kind != F_LIST || f.left == 1 || p == end || *p != TAG_NEW_FLOAT)
                    break;
                *f.slot++ = v;
                f.left--;
                v = NULL;
            }
            break;
        case TAG_FLOAT:
            if ((q = read_float(d, p, &v)) == NULL)
                goto leaf_failed;
            p = q;
            break;
        case TAG_SMALL_ATOM_UTF8:
        case TAG_ATOM_UTF8:
        case TAG_SMALL_ATOM:
        case TAG_ATOM:
            if ((q = read_atom(d, p, &atom)) == NULL)
                goto leaf_failed;
            p = q;
            v = (PyObject *)atom;
            if (atom->value != v) {
                v = Py_NewRef(atom->value);
                Py_DECREF(atom);
            }
            break;
        case TAG_BINARY:
            if (f.kind == F_DICT && f.key == NULL && f.left <= 2 * FEW_KEYS && end - p >= 5 &&
                get32(p + 1) <= KEY_BYTES && end - p - 5 >= p[4]) {
                if ((v = key_bytes(state, p + 5, p[4])) == NULL)
                    goto raised;
                p += 5 + p[4];
                break;
            }
            /* fall through */
        case TAG_BIT_BINARY:
            if ((q = read_binary(d, p, &v)) == NULL)
                goto leaf_failed;
            p = q;
            break;
        case TAG_NIL:
            if ((v = PyList_New(0)) == NULL)
                goto raised;
            p++;
            break;
        case TAG_STRING:
            if ((q = read_string(d, p, &v)) == NULL)
                goto leaf_failed;
            p = q;
            break;
        case TAG_NEW_PID:
        case TAG_PID:
            if (d->crossing != NULL) {
                fail(d, p, "a pid crosses a straw as that of a domain only");
                goto failed;
            }
            if ((q = read_pid(d, p, &v)) == NULL)
                goto leaf_failed;
            p = q;
            break;
        case TAG_NEWER_REFERENCE:
        case TAG_NEW_REFERENCE:
        case TAG_REFERENCE:
            if ((q = read_reference(d, p, &v)) == NULL)
                goto leaf_failed;
            if (d->crossing != NULL && turn_reference(d, *p, f.kind == F_TAIL, &v) < 0)
                goto failed;
            p = q;
            break;
        case TAG_NEW_PORT:
        case TAG_V4_PORT:
        case TAG_PORT:
            if ((q = read_port(d, p, &v)) == NULL)
                goto leaf_failed;
            p = q;
            break;
        case TAG_EXPORT:
            if ((q = read_export(d, p, &v)) == NULL)
                goto leaf_failed;
            p = q;
            break;
        case TAG_LING_PID:
            if (d->crossing != NULL) {
                if ((q = read_crossing_pid(d, p, &v)) == NULL)
                    goto leaf_failed;
                p = q;
                break;
            }
            if (d->dialect != DIALECT_LING) {
                fail(d, p, "a LING pid outside the ling dialect");
                goto failed;
            }
            if ((q = read_ling_pid(d, p, &v)) == NULL)
                goto leaf_failed;
            p = q;
            break;
        case TAG_SMALL_TUPLE:
            if (end - p < 2)
                goto truncated;
            count = p[1];
            p += 2;
            kind = F_TUPLE;
            extra = NULL;
            fun_end = NULL;
            goto tuple;
        case TAG_LARGE_TUPLE:
            if (end - p < 5)
                goto truncated;
            count = get32(p + 1);
            p += 5;
            kind = F_TUPLE;
            extra = NULL;
            fun_end = NULL;
            goto tuple;
        case TAG_NEW_FUN: {
            Py_ssize_t n;
            if ((q = read_fun_head(d, p, &extra, &n, &fun_end)) == NULL)
                goto leaf_failed;
            p = q;
            kind = F_FUN;
            count = (size_t)n;
            goto tuple;
        }
        case TAG_RECORD: {
            Py_ssize_t n;
            if ((q = read_record_head(d, p, f.owed + (size_t)f.left - 1, &extra, &n)) == NULL)
                goto leaf_failed;
            p = q;
            kind = F_RECORD;
            count = (size_t)n;
            fun_end = NULL;
            goto tuple;
        }
        case TAG_LIST:
            if (end - p < 5)
                goto truncated;
            count = get32(p + 1);
            p += 5;
            if (count == 0)
                continue; /* nothing before the tail: the tail itself */
            kind = F_LIST;
            extra = NULL;
            fun_end = NULL;
            goto push;
        case TAG_MAP:
            if (end - p < 5)
                goto truncated;
            count = 2 * (size_t)get32(p + 1);
            p += 5;
            if (count == 0) {
                if ((v = PyDict_New()) == NULL)
                    goto raised;
                break;
            }
            kind = F_DICT;
            extra = NULL;
            fun_end = NULL;
            goto push;
        case TAG_LOCAL:
            fail(d, p, "LOCAL_EXT within a term");
            goto failed;
        case TAG_COMPRESSED:
            fail(d, p, "compressed data within a term");
            goto failed;
        case TAG_ATOM_CACHE_REF:
            fail(d, p, "an atom cache reference without a cache");
            goto failed;
        default:
            fail(d, p, "an unknown tag");
            goto failed;
        }
        goto store;

    tuple:
        if (count == 0) {
            if ((v = PyTuple_New(0)) == NULL) {
                Py_XDECREF(extra);
                goto raised;
            }
            if (kind == F_TUPLE)
                goto store;
            /* a fun or record without more is complete */
            record_set(state, kind == F_FUN ? R_FUN : R_RECORD, extra, kind == F_FUN ? FUN_FREE : RECORD_VALUES, v);
            v = extra;
            if (kind == F_FUN && p != fun_end) {
                fail(d, begin + 1, "the size of a fun is wrong");
                goto failed;
            }
            goto store;
        }
    push:
        if ((size_t)(end - p) < f.owed + (size_t)f.left - 1 + count) {
            fail(d, begin, "more elements than bytes");
            Py_XDECREF(extra);
            goto failed;
        }
        if (depth >= d->max_depth) {
            fail(d, begin, "terms are nested too deep");
            Py_XDECREF(extra);
            goto failed;
        }
        if (depth == room) {
            Frame *more = stack == inline_frames ? PyMem_Malloc(sizeof(Frame) * (size_t)room * 2)
                                                 : PyMem_Realloc(stack, sizeof(Frame) * (size_t)room * 2);
            if (more == NULL) {
                PyErr_NoMemory();
                Py_XDECREF(extra);
                goto raised;
            }
            if (stack == inline_frames)
                memcpy(more, stack, sizeof inline_frames);
            stack = more;
            room *= 2;
        }
        {
            PyObject *obj = kind == F_LIST   ? PyList_New((Py_ssize_t)count)
                            : kind == F_DICT ? new_dict(count / 2)
                                             : PyTuple_New((Py_ssize_t)count);
            if (obj == NULL) {
                Py_XDECREF(extra);
                goto raised;
            }
            stack[depth++] = f;
            f.owed += (size_t)f.left - 1;
            f.in_key |= (f.kind == F_DICT || f.kind == F_PAIRS) && f.key == NULL;
            f.kind = kind;
            f.obj = obj;
            f.slot = kind == F_LIST   ? ((PyListObject *)obj)->ob_item
                     : kind == F_DICT ? NULL
                                      : ((PyTupleObject *)obj)->ob_item;
            f.left = (Py_ssize_t)count;
            f.key = NULL;
            f.extra = extra;
            f.at = kind == F_DICT ? p : begin;
            f.end = fun_end;
        }
        continue;

    store:
        switch (f.kind) {
        case F_TUPLE:
        case F_FUN:
        case F_RECORD:
            *f.slot++ = v;
            if (--f.left > 0)
                continue;
            v = f.obj;
            if (f.kind != F_TUPLE) {
                record_set(state, f.kind == F_FUN ? R_FUN : R_RECORD, f.extra,
                           f.kind == F_FUN ? FUN_FREE : RECORD_VALUES, v);
                v = f.extra;
                if (f.kind == F_FUN && p != f.end) {
                    fail(d, f.at + 1, "the size of a fun is wrong");
                    f.obj = f.extra = NULL;
                    goto failed;
                }
            }
            break;
        case F_LIST:
            *f.slot++ = v;
            if (--f.left > 0)
                continue;
        list_tail:
            if (p < end && *p == TAG_NIL) {
                p++;
                v = f.obj;
                break;
            }
            if (p < end && *p == TAG_LIST) {
                /* a list as the tail goes on with the same list, however many there are */
                if (end - p < 5)
                    goto truncated_stored;
                count = get32(p + 1);
                if ((size_t)(end - p - 5) < f.owed + count) {
                    v = NULL;
                    fail(d, p, "more elements than bytes");
                    goto failed;
                }
                p += 5;
                if (count == 0)
                    goto list_tail;
                f.kind = F_APPEND;
                f.left = (Py_ssize_t)count;
                v = NULL;
                continue;
            }
            f.kind = F_TAIL;
            f.left = 1;
            v = NULL;
            continue;
        case F_APPEND: {
            int bad = PyList_Append(f.obj, v);
            Py_CLEAR(v);
            if (bad < 0)
                goto raised;
            if (--f.left > 0)
                continue;
            goto list_tail;
        }
        case F_TAIL:
            if (PyList_CheckExact(v)) { /* NIL after an empty LIST_EXT, or a string */
                int bad = extend_list(f.obj, v);
                Py_CLEAR(v);
                if (bad < 0)
                    goto raised;
                v = f.obj;
            } else {
                v = improper_list(state, f.obj, v);
                f.obj = NULL;
                if (v == NULL)
                    goto raised;
            }
            break;
        case F_DICT:
        case F_PAIRS:
            f.left--;
            if (f.key == NULL) {
                f.key = v;
                v = NULL;
                continue;
            }
            {
                int bad = map_insert(d, &f, v);
                Py_DECREF(v);
                v = NULL;
                if (bad < 0)
                    goto failed;
            }
            Py_CLEAR(f.key);
            f.at = p;
            if (f.left > 0)
                continue;
            v = f.obj;
            if (f.kind == F_PAIRS) {
                if ((v = finish_pairs(d, &f)) == NULL)
                    goto failed;
                Py_DECREF(f.obj);
            }
            break;
        case F_ROOT:
            if (stack != inline_frames)
                PyMem_Free(stack);
            *at = p;
            return v;
        }
        f = stack[--depth];
        goto store;

    truncated_stored:
        v = NULL;
    truncated:
        fail(d, end, TRUNCATED);
        goto failed;
    leaf_failed:
        v = NULL;
        goto failed;
    raised:
        v = NULL;
        d->error = NULL;
    failed:
        Py_XDECREF(v);
        for (;;) {
            Py_XDECREF(f.obj);
            Py_XDECREF(f.key);
            Py_XDECREF(f.extra);
            if (depth == 0)
                break;
            f = stack[--depth];
        }
        if (stack != inline_frames)
            PyMem_Free(stack);
        return NULL;
    }
}

/* ---- errors and entry points ---- */

PyObject *decode_error_new(Decoder *d)
{
    return PyObject_CallFunction(d->state->decode_error, "sn", d->error, (Py_ssize_t)(d->error_at - d->start));
}

static void decode_error_raise(Decoder *d)
{
    if (d->error == NULL)
        return;
    PyObject *error = decode_error_new(d);
    if (error != NULL)
        PyErr_SetObject(d->state->decode_error, error);
    Py_XDECREF(error);
}

/* COMPRESSED: u32 size, zlib data. p is at the tag; *next gets the byte after. */
static PyObject *decode_compressed(Decoder *d, const uint8_t *p, const uint8_t **next)
{
    PyObject *zlib = NULL, *stream = NULL, *data = NULL, *tail = NULL, *eof = NULL, *term = NULL;
    d->error = NULL;
    if (d->end - p < 5) {
        fail(d, d->end, TRUNCATED);
        return NULL;
    }
    size_t size = get32(p + 1);
    if (size > (size_t)d->max_inflated) {
        fail(d, p + 1, "compressed data is larger than max_inflated");
        return NULL;
    }
    if ((zlib = PyImport_ImportModule("zlib")) == NULL ||
        (stream = PyObject_CallMethod(zlib, "decompressobj", NULL)) == NULL)
        goto done;
    /* one byte more than announced shows that there is more, and lets the stream reach its end */
    data = PyObject_CallMethod(stream, "decompress", "y#n", (const char *)p + 5, (Py_ssize_t)(d->end - p - 5),
                               (Py_ssize_t)size + 1);
    if (data == NULL) {
        PyObject *type, *value, *trace;
        PyErr_Fetch(&type, &value, &trace);
        PyObject *zlib_error = PyObject_GetAttrString(zlib, "error");
        if (zlib_error != NULL && PyErr_GivenExceptionMatches(type, zlib_error)) {
            fail(d, p + 5, "compressed data is broken");
            Py_XDECREF(type);
            Py_XDECREF(value);
            Py_XDECREF(trace);
        } else {
            PyErr_Restore(type, value, trace);
        }
        Py_XDECREF(zlib_error);
        goto done;
    }
    if ((eof = PyObject_GetAttrString(stream, "eof")) == NULL ||
        (tail = PyObject_GetAttrString(stream, "unused_data")) == NULL)
        goto done;
    if (!PyBytes_Check(data) || !PyBytes_Check(tail) || eof != Py_True || (size_t)PyBytes_GET_SIZE(data) != size) {
        fail(d, p + 5, "compressed data is not of the announced size");
        goto done;
    }
    Decoder inner = *d;
    inner.start = (const uint8_t *)PyBytes_AS_STRING(data);
    inner.end = inner.start + size;
    inner.specials = 0;
    const uint8_t *q = inner.start;
    term = decode_term(&inner, &q);
    if (term != NULL && q != inner.end) {
        Py_CLEAR(term);
        inner.error = "data after the term";
    }
    if (term == NULL) {
        d->error = inner.error;
        d->error_at = p + 5; /* offsets within what was packed would mislead */
    }
    d->missing = inner.missing;
    *next = d->end - PyBytes_GET_SIZE(tail);
done:
    Py_XDECREF(zlib);
    Py_XDECREF(stream);
    Py_XDECREF(data);
    Py_XDECREF(tail);
    Py_XDECREF(eof);
    return term;
}

static PyObject *decode_local(Decoder *d, const uint8_t *p)
{
    PyObject *term = record_new(d->state, R_LOCAL);
    PyObject *data = PyBytes_FromStringAndSize((const char *)p + 1, (Py_ssize_t)(d->end - p - 1));
    d->error = NULL;
    if (term == NULL || data == NULL) {
        Py_XDECREF(term);
        Py_XDECREF(data);
        return NULL;
    }
    record_set(d->state, R_LOCAL, term, LOCAL_DATA, data);
    return term;
}

static PyObject *decode_top(Decoder *d, const uint8_t **at)
{
    const uint8_t *p = *at;
    if (p == d->end || *p != TAG_VERSION) {
        fail(d, p, p == d->end ? TRUNCATED : "a term begins with 131");
        return NULL;
    }
    p++;
    if (d->specials && p < d->end && *p == TAG_LOCAL) {
        *at = d->end;
        return decode_local(d, p);
    }
    if (d->specials && p < d->end && *p == TAG_COMPRESSED)
        return decode_compressed(d, p, at);
    *at = p;
    return decode_term(d, at);
}

int option_size(PyObject *value, const char *name, Py_ssize_t *size)
{
    *size = PyLong_Check(value) ? PyLong_AsSsize_t(value) : -1;
    if (*size < 0) {
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_ValueError, "%s must be an int, 0 or more", name);
        return -1;
    }
    return 0;
}

/* The term, or NULL and an exception. */
static PyObject *decode_all(Decoder *d, const uint8_t **p, int prefix)
{
    int collecting = PyGC_Disable();
    PyObject *term = decode_top(d, p);
    if (collecting)
        PyGC_Enable();
    if (term != NULL && !prefix && *p != d->end) {
        Py_CLEAR(term);
        fail(d, *p, "data after the term");
    }
    if (term == NULL)
        decode_error_raise(d);
    return term;
}

PyObject *decode_bytes(Decoder *d, PyObject *data, Py_ssize_t *used)
{
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    d->start = view.buf;
    d->end = d->start + view.len;
    const uint8_t *p = d->start;
    d->takes = d->crossing != NULL;
    PyObject *term = decode_all(d, &p, used != NULL);
    if (d->missing != NULL && term != NULL) {
        /* new processes of the peer: once they have pids here, the same once more */
        Py_CLEAR(term);
        PyObject *taken = PyObject_CallOneArg(d->crossing->take, d->missing);
        d->takes = 0;
        p = d->start;
        if (taken != NULL)
            term = decode_all(d, &p, used != NULL);
        Py_XDECREF(taken);
    }
    Py_CLEAR(d->missing);
    if (used != NULL)
        *used = (Py_ssize_t)(p - d->start);
    PyBuffer_Release(&view);
    return term;
}

static PyObject *decode_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, int prefix)
{
    State *state = state_of(module);
    Py_ssize_t used;
    Decoder d = {.state = state, .max_depth = MAX_DEPTH, .max_inflated = MAX_INFLATED, .specials = 1};
    if (state_ready(state) < 0)
        return NULL;
    if (nargs != 1) {
        PyErr_SetString(PyExc_TypeError, "one positional argument is needed: data");
        return NULL;
    }
    for (Py_ssize_t i = 0; kwnames != NULL && i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i), *value = args[1 + i];
        if (PyUnicode_CompareWithASCIIString(name, "max_depth") == 0) {
            if (option_size(value, "max_depth", &d.max_depth) < 0)
                return NULL;
        } else if (PyUnicode_CompareWithASCIIString(name, "max_inflated") == 0) {
            if (option_size(value, "max_inflated", &d.max_inflated) < 0)
                return NULL;
        } else if (PyUnicode_CompareWithASCIIString(name, "dialect") == 0) {
            if ((d.dialect = dialect_argument(value)) < 0)
                return NULL;
        } else if (!prefix && PyUnicode_CompareWithASCIIString(name, "crossing") == 0) {
            if (value != Py_None && !Py_IS_TYPE(value, state->crossing_type)) {
                PyErr_SetString(PyExc_TypeError, "crossing must be a Crossing or None");
                return NULL;
            }
            d.crossing = value == Py_None ? NULL : (Crossing *)value;
        } else {
            PyErr_Format(PyExc_TypeError, "unexpected keyword argument %R", name);
            return NULL;
        }
    }
    PyObject *term = decode_bytes(&d, args[0], prefix ? &used : NULL);
    return term == NULL || !prefix ? term : Py_BuildValue("Nn", term, used);
}

PyObject *etf_decode(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return decode_call(module, args, nargs, kwnames, 0);
}

PyObject *etf_decode_prefix(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return decode_call(module, args, nargs, kwnames, 1);
}
