/* Terms to bytes (erl_ext_dist): the bytes that OTP 28's term_to_binary writes, or those that LING takes.
 *
 * Iterative, and safe against containers that hold themselves or change meanwhile. What a peer would drop the whole
 * connection for is refused with an EncodeError that says where in the value it stands.
 *
 * References are borrowed throughout: no Python code runs between begin and end of an encode, because the collector is
 * off, subclasses are read as their base without calling their methods, and nothing that is held is let go.
 */
#include "etf.h"

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
    uint8_t *head;      /* E_FREE: where the size of the fun goes */
    uint64_t head_at;   /* E_FREE: the same as a position */
} Frame;

#define INLINE_FRAMES 24

typedef struct {
    const EncodeOptions *o;
    State *state;
    Writer *w;
    int canonical;     /* maps in the order of their keys' bytes: for comparing terms, not for peers */
    int nesting;       /* of canonical maps */
    Frame *stack;
    Py_ssize_t depth, room, max_depth;
    int funs;          /* funs that are being written: their size is filled in at the end, so nothing is passed on */
    int (*pass)(Writer *w, PyObject *big_bytes);
    Frame inline_frames[INLINE_FRAMES];
} Encoder;

/* ---- errors with a path ---- */

static PyObject *short_repr(PyObject *key)
{
    PyObject *text = PyObject_Repr(key);
    if (text == NULL) {
        PyErr_Clear();
        return PyUnicode_FromString("...");
    }
    if (PyUnicode_GET_LENGTH(text) > 60) {
        PyObject *head = PyUnicode_Substring(text, 0, 57);
        Py_DECREF(text);
        text = head == NULL ? NULL : PyUnicode_FromFormat("%U...", head);
        Py_XDECREF(head);
    }
    return text;
}

static int is_plain(State *state, PyObject *key)
{
    PyTypeObject *type = Py_TYPE(key);
    return type == &PyUnicode_Type || type == &PyBytes_Type || type == &PyLong_Type || type == &PyFloat_Type ||
           type == &PyBool_Type || type == state->atom_type || key == Py_None;
}

static PyObject *step_text(Encoder *e, const Frame *f)
{
    PyObject *text;
    switch (f->kind) {
    case E_IMPROPER:
        return f->i > f->n ? PyUnicode_FromString(".tail") : PyUnicode_FromFormat(".items[%zd]", f->i - 1);
    case E_FREE:
        return PyUnicode_FromFormat(".free[%zd]", f->i - 1);
    case E_VALUES:
        return PyUnicode_FromFormat(".values[%zd]", f->i - 1);
    case E_PAIRS:
        return PyUnicode_FromFormat(".pairs[%zd][%d]", f->i - 1, f->value_next ? 0 : 1);
    case E_DICT:
        if (f->key != NULL && is_plain(e->state, f->key)) {
            PyObject *key = short_repr(f->key);
            text = key == NULL ? NULL : PyUnicode_FromFormat(f->value_next ? "<key %U>" : "[%U]", key);
            Py_XDECREF(key);
            return text;
        }
        return PyUnicode_FromFormat(f->value_next ? "<key %zd>" : "<value %zd>", f->i - 1);
    default:
        return PyUnicode_FromFormat("[%zd]", f->i - 1);
    }
}

static PyObject *path_text(Encoder *e)
{
    PyObject *path = PyUnicode_FromString("");
    for (Py_ssize_t i = 0; path != NULL && i < e->depth; i++) {
        PyObject *step;
        if (i == 40 && e->depth > 80) { /* a long way down: the middle is left out */
            step = PyUnicode_FromString("[...]");
            i = e->depth - 20;
        } else {
            step = step_text(e, &e->stack[i]);
        }
        if (step == NULL)
            Py_CLEAR(path);
        else
            PyUnicode_AppendAndDel(&path, step);
    }
    return path;
}

/* Raise EncodeError(reason, path); takes the pending exception's place if there is one. Always -1. */
static int refuse(Encoder *e, const char *format, ...)
{
    PyErr_Clear();
    va_list va;
    va_start(va, format);
    PyObject *reason = PyUnicode_FromFormatV(format, va);
    va_end(va);
    PyObject *path = reason == NULL ? NULL : path_text(e);
    PyObject *error = path == NULL ? NULL : PyObject_CallFunctionObjArgs(e->state->encode_error, reason, path, NULL);
    if (error != NULL)
        PyErr_SetObject(e->state->encode_error, error);
    Py_XDECREF(error);
    Py_XDECREF(reason);
    Py_XDECREF(path);
    return -1;
}

/* ---- leaves ---- */

static int put_atom(Encoder *e, const Atom *atom)
{
    Writer *w = e->w;
    if (writer_need(w, MAX_ATOM_BYTES + 3) < 0)
        return -1;
    if (e->o->dialect == DIALECT_LING) {
        if (!atom->latin1)
            return refuse(e, "LING has no atom %R: it is not latin-1", atom);
        uint8_t *p = w->p;
        p[0] = TAG_SMALL_ATOM;
        p += 2;
        for (const uint8_t *t = atom->text; t < atom->text + atom->length; t++) {
            if (*t < 0x80) {
                *p++ = *t;
            } else {
                *p++ = (uint8_t)(t[0] << 6 | (t[1] & 0x3F));
                t++;
            }
        }
        w->p[1] = (uint8_t)(p - w->p - 2);
        w->p = p;
        return 0;
    }
    if (atom->wired) {
        memcpy(w->p, atom->wire, sizeof atom->wire);
        w->p += atom->length + 2;
    } else if (atom->length < 256) {
        w->p[0] = TAG_SMALL_ATOM_UTF8;
        w->p[1] = (uint8_t)atom->length;
        memcpy(w->p + 2, atom->text, atom->length);
        w->p += atom->length + 2;
    } else {
        w->p[0] = TAG_ATOM_UTF8;
        put16(w->p + 1, atom->length);
        memcpy(w->p + 3, atom->text, atom->length);
        w->p += atom->length + 3;
    }
    return 0;
}

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

static int put_big(Encoder *e, PyObject *value)
{
    Writer *w = e->w;
    int overflow;
    long long small = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow == 0) {
        if (small == -1 && PyErr_Occurred())
            return -1;
        if (writer_need(w, 16) < 0)
            return -1;
        w->p = put_i64(w->p, small);
        return 0;
    }
    PyObject *magnitude = overflow < 0 ? PyLong_Type.tp_as_number->nb_absolute(value) : Py_NewRef(value);
    if (magnitude == NULL)
        return -1;
    int result = -1;
    size_t bits = _PyLong_NumBits(magnitude), count = bits / 8 + (bits % 8 != 0);
    if (count > MAX_ENCODED_BIG) {
        refuse(e, "an integer of more than %d bytes", MAX_ENCODED_BIG);
    } else if (writer_need(w, count + 6) == 0) {
        uint8_t *p = w->p;
        p[0] = count < 256 ? TAG_SMALL_BIG : TAG_LARGE_BIG;
        if (count < 256)
            p[1] = (uint8_t)count;
        else
            put32(p + 1, (uint32_t)count);
        p += count < 256 ? 2 : 5;
        *p++ = overflow < 0;
#if PY_VERSION_HEX >= 0x030D0000
        result = _PyLong_AsByteArray((PyLongObject *)magnitude, p, count, 1, 0, 1);
#else
        result = _PyLong_AsByteArray((PyLongObject *)magnitude, p, count, 1, 0);
#endif
        w->p = p + count;
    }
    Py_DECREF(magnitude);
    return result;
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

static int put_int(Encoder *e, PyObject *value)
{
    int64_t small;
    if (!compact_int(value, &small))
        return put_big(e, value);
    if (writer_need(e->w, 16) < 0)
        return -1;
    e->w->p = put_i64(e->w->p, small);
    return 0;
}

static int put_float(Encoder *e, double number)
{
    uint64_t bits;
    memcpy(&bits, &number, 8);
    if ((bits & 0x7FF0000000000000u) == 0x7FF0000000000000u)
        return refuse(e, "a float that is not finite");
    if (writer_need(e->w, 16) < 0)
        return -1;
    e->w->p[0] = TAG_NEW_FLOAT;
    put64(e->w->p + 1, bits);
    e->w->p += 9;
    return 0;
}

static int put_bytes(Encoder *e, const char *data, Py_ssize_t length, PyObject *owner)
{
    Writer *w = e->w;
    if ((uint64_t)length > UINT32_MAX)
        return refuse(e, "a binary of more than 4 GiB");
    int whole = owner != NULL && length >= BIG_BINARY && w->pass != NULL;
    if (writer_need(w, whole ? 5 : (size_t)length + 5) < 0)
        return -1;
    w->p[0] = TAG_BINARY;
    put32(w->p + 1, (uint32_t)length);
    w->p += 5;
    if (whole)
        return w->pass(w, owner);
    memcpy(w->p, data, (size_t)length);
    w->p += length;
    return 0;
}

static int put_str(Encoder *e, PyObject *text)
{
    if (PyUnicode_IS_COMPACT_ASCII(text))
        return put_bytes(e, (const char *)PyUnicode_1BYTE_DATA(text), PyUnicode_GET_LENGTH(text), NULL);
    /* not AsUTF8AndSize: that would keep a second copy in the str for as long as it lives */
    PyObject *utf8 = PyUnicode_AsUTF8String(text);
    if (utf8 == NULL)
        return PyErr_ExceptionMatches(PyExc_UnicodeError) ? refuse(e, "a str with a lone surrogate has no UTF-8") : -1;
    int result = put_bytes(e, PyBytes_AS_STRING(utf8), PyBytes_GET_SIZE(utf8), utf8);
    Py_DECREF(utf8);
    return result;
}

static int put_pid(Encoder *e, const Pid *pid)
{
    if (e->o->dialect == DIALECT_LING)
        return refuse(e, "LING takes LingPid only, not %R", pid);
    if (writer_need(e->w, 1) < 0)
        return -1;
    *e->w->p++ = TAG_NEW_PID;
    if (put_atom(e, pid->node) < 0 || writer_need(e->w, 12) < 0)
        return -1;
    put32(e->w->p, pid->id);
    put32(e->w->p + 4, pid->serial);
    put32(e->w->p + 8, pid->creation);
    e->w->p += 12;
    return 0;
}

static int put_port(Encoder *e, const Port *port)
{
    int ling = e->o->dialect == DIALECT_LING, large = port->id > MAX_V3_PORT;
    if (ling && (port->id >= 1 << 18 || port->creation > 3))
        return refuse(e, "LING has no port %R", port);
    if (writer_need(e->w, 1) < 0)
        return -1;
    *e->w->p++ = ling ? TAG_PORT : large ? TAG_V4_PORT : TAG_NEW_PORT;
    if (put_atom(e, port->node) < 0 || writer_need(e->w, 12) < 0)
        return -1;
    uint8_t *p = e->w->p;
    if (large) {
        put64(p, port->id);
        p += 8;
    } else {
        put32(p, (uint32_t)port->id);
        p += 4;
    }
    if (ling) {
        *p++ = (uint8_t)port->creation;
    } else {
        put32(p, port->creation);
        p += 4;
    }
    e->w->p = p;
    return 0;
}

static int put_reference(Encoder *e, const Reference *ref)
{
    int ling = e->o->dialect == DIALECT_LING;
    if (ling && (ref->count > 3 || ref->ids[0] >= 1 << 18 || ref->creation > 3))
        return refuse(e, "LING has no reference %R", ref);
    if (writer_need(e->w, 3) < 0)
        return -1;
    e->w->p[0] = ling ? TAG_NEW_REFERENCE : TAG_NEWER_REFERENCE;
    put16(e->w->p + 1, (uint16_t)ref->count);
    e->w->p += 3;
    if (put_atom(e, ref->node) < 0 || writer_need(e->w, 4 + 4 * MAX_REF_WORDS) < 0)
        return -1;
    uint8_t *p = e->w->p;
    if (ling) {
        *p++ = (uint8_t)ref->creation;
    } else {
        put32(p, ref->creation);
        p += 4;
    }
    for (uint32_t i = 0; i < ref->count; i++, p += 4)
        put32(p, ref->ids[i]);
    e->w->p = p;
    return 0;
}

static int put_view(Encoder *e, PyObject *value)
{
    Py_buffer view;
    if (PyObject_GetBuffer(value, &view, PyBUF_FULL_RO) < 0)
        return PyErr_ExceptionMatches(PyExc_MemoryError) ? -1 : refuse(e, "a memoryview that can't be read");
    int result = 0;
    if (PyBuffer_IsContiguous(&view, 'C')) {
        result = put_bytes(e, view.buf, view.len, NULL);
    } else {
        PyObject *copy = PyBytes_FromStringAndSize(NULL, view.len);
        result = copy == NULL ? -1 : PyBuffer_ToContiguous(PyBytes_AS_STRING(copy), &view, view.len, 'C');
        if (result == 0)
            result = put_bytes(e, PyBytes_AS_STRING(copy), view.len, copy);
        Py_XDECREF(copy);
    }
    PyBuffer_Release(&view);
    return result;
}

/* A field of a record, checked. What a user wrote into one may be anything. */
static int field_atom(Encoder *e, RecordKind kind, PyObject *record, int field)
{
    PyObject *value = record_get(e->state, kind, record, field);
    if (value == NULL || !Py_IS_TYPE(value, e->state->atom_type))
        return refuse(e, "a %s whose names are not Atoms", Py_TYPE(record)->tp_name);
    return put_atom(e, (Atom *)value);
}

static int field_word(Encoder *e, RecordKind kind, PyObject *record, int field, uint64_t limit, uint64_t *word)
{
    PyObject *value = record_get(e->state, kind, record, field);
    if (value != NULL && PyLong_Check(value)) {
        *word = PyLong_AsUnsignedLongLong(value);
        if (!(*word == (uint64_t)-1 && PyErr_Occurred()) && *word <= limit)
            return 0;
    }
    return refuse(e, "a %s with a number out of range", Py_TYPE(record)->tp_name);
}

static int put_export(Encoder *e, PyObject *value)
{
    uint64_t arity = 0;
    if (field_word(e, R_EXPORT, value, EXPORT_ARITY, 255, &arity) < 0 || writer_need(e->w, 1) < 0)
        return -1;
    *e->w->p++ = TAG_EXPORT;
    if (field_atom(e, R_EXPORT, value, EXPORT_MODULE) < 0 || field_atom(e, R_EXPORT, value, EXPORT_FUNCTION) < 0 ||
        writer_need(e->w, 2) < 0)
        return -1;
    *e->w->p++ = TAG_SMALL_INTEGER;
    *e->w->p++ = (uint8_t)arity;
    return 0;
}

static int put_bits(Encoder *e, PyObject *value)
{
    uint64_t bits = 0;
    PyObject *data = record_get(e->state, R_BITS, value, BITS_DATA);
    if (field_word(e, R_BITS, value, BITS_BITS, 7, &bits) < 0)
        return -1;
    if (data == NULL || !PyBytes_Check(data) || PyBytes_GET_SIZE(data) == 0 || bits == 0)
        return refuse(e, "a BitString needs bytes, and 1 to 7 bits in the last");
    size_t length = (size_t)PyBytes_GET_SIZE(data);
    if (length > UINT32_MAX)
        return refuse(e, "a binary of more than 4 GiB");
    if (writer_need(e->w, length + 6) < 0)
        return -1;
    uint8_t *p = e->w->p;
    p[0] = TAG_BIT_BINARY;
    put32(p + 1, (uint32_t)length);
    p[5] = (uint8_t)bits;
    memcpy(p + 6, PyBytes_AS_STRING(data), length);
    p[5 + length] &= (uint8_t)(0xFF00 >> bits);
    e->w->p += length + 6;
    return 0;
}

static int put_ling_pid(Encoder *e, PyObject *value)
{
    uint64_t boxid = 0, domid = 0, id = 0;
    if (e->o->dialect != DIALECT_LING)
        return refuse(e, "a LingPid can't be said outside the ling dialect");
    if (field_word(e, R_LING_PID, value, LING_BOXID, UINT64_MAX, &boxid) < 0 ||
        field_word(e, R_LING_PID, value, LING_DOMID, UINT32_MAX, &domid) < 0 ||
        field_word(e, R_LING_PID, value, LING_ID, UINT32_MAX, &id) < 0 || writer_need(e->w, 17) < 0)
        return -1;
    uint8_t *p = e->w->p;
    p[0] = TAG_LING_PID;
    put64(p + 1, boxid);
    put32(p + 9, (uint32_t)domid);
    put32(p + 13, (uint32_t)id);
    e->w->p += 17;
    return 0;
}

/* ---- keys of maps ---- */

enum { K_STR = 1, K_BYTES = 2, K_ATOM = 4, K_WORD = 8, K_NUMBER = 16, K_OTHER = 32 };

/* What a key is made of. Keys that Python keeps apart may be one term only when str meets bytes, Atom meets
 * True, False or None, or one holds something of another kind (a subclass, a list, a map). */
static int key_classes(State *state, PyObject *key, int depth)
{
    PyTypeObject *type = Py_TYPE(key);
    if (type == &PyUnicode_Type)
        return K_STR;
    if (type == &PyBytes_Type)
        return K_BYTES;
    if (type == state->atom_type)
        return K_ATOM;
    if (type == &PyLong_Type || type == &PyFloat_Type || type == state->pid_type || type == state->port_type ||
        type == state->reference_type)
        return K_NUMBER;
    if (type == &PyBool_Type || key == Py_None)
        return K_WORD;
    if (type != &PyTuple_Type || depth == MAX_KEY_DEPTH)
        return K_OTHER;
    int classes = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(key) && !(classes & K_OTHER); i++)
        classes |= key_classes(state, PyTuple_GET_ITEM(key, i), depth + 1);
    return classes;
}

static int keys_may_meet(int classes)
{
    return (classes & K_OTHER) || (classes & (K_STR | K_BYTES)) == (K_STR | K_BYTES) ||
           (classes & (K_ATOM | K_WORD)) == (K_ATOM | K_WORD);
}

static int encode_nested(const EncodeOptions *o, Writer *w, PyObject *term, int canonical, int nesting);

/* One bytes object that is the same for two terms exactly when they are =:=. */
static PyObject *canonical_bytes(const EncodeOptions *o, PyObject *term, int nesting)
{
    BytesWriter b;
    bytes_writer_init(&b, NULL);
    if (encode_nested(o, &b.w, term, 1, nesting) < 0) {
        bytes_writer_drop(&b);
        return NULL;
    }
    return bytes_writer_finish(&b);
}

/* A dict, or tuple of pairs, in canonical order; 0 with *distinct, or -1. out may be NULL: only look. */
static int canonical_pairs(Encoder *e, PyObject *obj, PyObject *pairs, Writer *out)
{
    PyObject *list = PyList_New(0), *key, *value, *entry;
    Py_ssize_t at = 0, i = 0;
    int result = -1;
    if (list == NULL)
        return -1;
    if (e->nesting >= MAX_KEY_NESTING) {
        refuse(e, "maps are nested too deep within keys of maps");
        goto done;
    }
    for (;;) {
        if (pairs == NULL) {
            if (!PyDict_Next(obj, &at, &key, &value))
                break;
        } else {
            if (i == PyTuple_GET_SIZE(pairs))
                break;
            PyObject *pair = PyTuple_GET_ITEM(pairs, i++);
            if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2) {
                refuse(e, "the pairs of a Map are tuples of two");
                goto done;
            }
            key = PyTuple_GET_ITEM(pair, 0);
            value = PyTuple_GET_ITEM(pair, 1);
        }
        Py_INCREF(value);
        PyObject *key_bytes = canonical_bytes(e->o, key, e->nesting + 1);
        PyObject *value_bytes = key_bytes == NULL ? NULL
                                : out == NULL     ? Py_NewRef(Py_None)
                                                  : canonical_bytes(e->o, value, e->nesting + 1);
        Py_DECREF(value);
        entry = value_bytes == NULL ? NULL : PyTuple_Pack(2, key_bytes, value_bytes);
        Py_XDECREF(key_bytes);
        Py_XDECREF(value_bytes);
        if (entry == NULL || PyList_Append(list, entry) < 0) {
            Py_XDECREF(entry);
            goto done;
        }
        Py_DECREF(entry);
    }
    Py_ssize_t n = PyList_GET_SIZE(list);
    PyObject *seen = PySet_New(NULL);
    if (seen == NULL)
        goto done;
    for (i = 0; i < n; i++)
        if (PySet_Add(seen, PyTuple_GET_ITEM(PyList_GET_ITEM(list, i), 0)) < 0)
            break;
    Py_ssize_t distinct = PySet_GET_SIZE(seen);
    Py_DECREF(seen);
    if (i < n)
        goto done;
    if (distinct < n) {
        refuse(e, "two keys of a map become one term");
        goto done;
    }
    if (out != NULL) {
        if (PyList_Sort(list) < 0 || writer_need(out, 5) < 0)
            goto done;
        out->p[0] = TAG_MAP;
        put32(out->p + 1, (uint32_t)n);
        out->p += 5;
        for (i = 0; i < 2 * n; i++) {
            PyObject *part = PyTuple_GET_ITEM(PyList_GET_ITEM(list, i / 2), i % 2);
            size_t length = (size_t)PyBytes_GET_SIZE(part);
            if (writer_need(out, length) < 0)
                goto done;
            memcpy(out->p, PyBytes_AS_STRING(part), length);
            out->p += length;
        }
    }
    result = 0;
done:
    Py_DECREF(list);
    return result;
}

/* ---- containers ---- */

static int push(Encoder *e, FrameKind kind, PyObject *obj, PyObject *items, Py_ssize_t n)
{
    if (e->depth >= e->max_depth)
        return refuse(e, "nested more than %zd deep, or a container within itself", e->max_depth);
    if (e->depth == e->room) {
        size_t size = sizeof(Frame) * (size_t)e->room;
        Frame *more = PyMem_Malloc(2 * size);
        if (more == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        memcpy(more, e->stack, size);
        if (e->stack != e->inline_frames)
            PyMem_Free(e->stack);
        e->stack = more;
        e->room *= 2;
    }
    Frame *f = &e->stack[e->depth], *outer = f - 1;
    memset(f, 0, sizeof *f);
    f->kind = kind;
    f->obj = obj;
    f->items = items;
    f->n = n;
    if (e->depth > 0)
        f->in_key = outer->in_key || ((outer->kind == E_DICT || outer->kind == E_PAIRS) && outer->value_next &&
                                      (outer->kind == E_PAIRS || (outer->classes & K_OTHER)));
    e->depth++;
    return 0;
}

static int put_head(Encoder *e, uint8_t tag, Py_ssize_t count)
{
    if ((uint64_t)count > UINT32_MAX)
        return refuse(e, "a container of more than 2^32 elements");
    if (writer_need(e->w, 16) < 0)
        return -1;
    e->w->p[0] = tag;
    put32(e->w->p + 1, (uint32_t)count);
    e->w->p += 5;
    return 0;
}

static int begin_tuple(Encoder *e, PyObject *tuple)
{
    Py_ssize_t n = PyTuple_GET_SIZE(tuple);
    if (n < 256) {
        if (writer_need(e->w, 2) < 0)
            return -1;
        e->w->p[0] = TAG_SMALL_TUPLE;
        e->w->p[1] = (uint8_t)n;
        e->w->p += 2;
    } else if (put_head(e, TAG_LARGE_TUPLE, n) < 0) {
        return -1;
    }
    return n == 0 ? 0 : push(e, E_TUPLE, tuple, tuple, n);
}

static inline int is_byte(PyObject *item)
{
    int64_t value;
    return (PyLong_CheckExact(item) || (PyLong_Check(item) && !PyBool_Check(item))) && compact_int(item, &value) &&
           value >= 0 && value < 256;
}

static int begin_list(Encoder *e, PyObject *list)
{
    Py_ssize_t n = PyList_GET_SIZE(list), i = 0;
    Writer *w = e->w;
    if (n == 0) {
        if (writer_need(w, 1) < 0)
            return -1;
        *w->p++ = TAG_NIL;
        return 0;
    }
    if (n <= UINT16_MAX && is_byte(PyList_GET_ITEM(list, 0))) {
        /* a list of bytes only goes as a string, as term_to_binary does */
        for (i = 1; i < n && is_byte(PyList_GET_ITEM(list, i)); i++)
            ;
        if (i == n) {
            if (writer_need(w, (size_t)n + 3) < 0)
                return -1;
            w->p[0] = TAG_STRING;
            put16(w->p + 1, (uint16_t)n);
            w->p += 3;
            for (i = 0; i < n; i++) {
                int64_t value = 0;
                compact_int(PyList_GET_ITEM(list, i), &value);
                *w->p++ = (uint8_t)value;
            }
            return 0;
        }
    }
    return put_head(e, TAG_LIST, n) < 0 ? -1 : push(e, E_LIST, list, list, n);
}

static int begin_map(Encoder *e, PyObject *obj, PyObject *pairs)
{
    if (e->o->dialect == DIALECT_LING && !e->o->ling_maps)
        return refuse(e, "a map would end a LING node (ling_maps=True allows it)");
    if (e->canonical)
        return canonical_pairs(e, obj, pairs, e->w);
    Py_ssize_t n = pairs == NULL ? PyDict_GET_SIZE(obj) : PyTuple_GET_SIZE(pairs);
    if (put_head(e, TAG_MAP, n) < 0)
        return -1;
    return n == 0 ? 0 : push(e, pairs == NULL ? E_DICT : E_PAIRS, obj, pairs, n);
}

static int begin_improper(Encoder *e, PyObject *value)
{
    PyObject *items = record_get(e->state, R_IMPROPER, value, IMPROPER_ITEMS);
    PyObject *tail = record_get(e->state, R_IMPROPER, value, IMPROPER_TAIL);
    if (items == NULL || tail == NULL || !PyTuple_Check(items) || PyTuple_GET_SIZE(items) == 0 || PyList_Check(tail))
        return refuse(e, "an ImproperList needs a tuple of items and a tail that is not a list");
    if (Py_IS_TYPE(tail, e->state->records[R_IMPROPER].type))
        return refuse(e, "the tail of an ImproperList is another one: join their items");
    Py_ssize_t n = PyTuple_GET_SIZE(items);
    return put_head(e, TAG_LIST, n) < 0 ? -1 : push(e, E_IMPROPER, value, items, n);
}

static int begin_fun(Encoder *e, PyObject *value)
{
    State *state = e->state;
    uint64_t arity = 0, index = 0;
    PyObject *uniq = record_get(state, R_FUN, value, FUN_UNIQ), *free_vars = record_get(state, R_FUN, value, FUN_FREE);
    PyObject *old_index = record_get(state, R_FUN, value, FUN_OLD_INDEX);
    PyObject *old_uniq = record_get(state, R_FUN, value, FUN_OLD_UNIQ), *pid = record_get(state, R_FUN, value, FUN_PID);
    if (e->o->dialect == DIALECT_LING)
        return refuse(e, "LING does not take the funs of OTP");
    if (field_word(e, R_FUN, value, FUN_ARITY, 255, &arity) < 0 ||
        field_word(e, R_FUN, value, FUN_INDEX, UINT32_MAX, &index) < 0)
        return -1;
    if (uniq == NULL || !PyBytes_Check(uniq) || PyBytes_GET_SIZE(uniq) != 16 || free_vars == NULL ||
        !PyTuple_Check(free_vars) || old_index == NULL || !PyLong_Check(old_index) || old_uniq == NULL ||
        !PyLong_Check(old_uniq) || pid == NULL || !Py_IS_TYPE(pid, state->pid_type))
        return refuse(e, "a Fun whose fields are not those of NEW_FUN_EXT");
    if (writer_need(e->w, 64) < 0)
        return -1;
    Py_ssize_t n = PyTuple_GET_SIZE(free_vars);
    if ((uint64_t)n > UINT32_MAX)
        return refuse(e, "a fun with more than 2^32 free variables");
    uint8_t *p = e->w->p;
    p[0] = TAG_NEW_FUN;
    p[5] = (uint8_t)arity;
    memcpy(p + 6, PyBytes_AS_STRING(uniq), 16);
    put32(p + 22, (uint32_t)index);
    put32(p + 26, (uint32_t)n);
    uint64_t head_at = writer_position(e->w) + 1;
    e->w->p += 30;
    if (e->funs++ == 0) {
        e->pass = e->w->pass;
        e->w->pass = NULL;
    }
    if (field_atom(e, R_FUN, value, FUN_MODULE) < 0 || put_int(e, old_index) < 0 || put_int(e, old_uniq) < 0 ||
        put_pid(e, (Pid *)pid) < 0 || push(e, E_FREE, value, free_vars, n) < 0)
        return -1;
    e->stack[e->depth - 1].head = p + 1;
    e->stack[e->depth - 1].head_at = head_at;
    return 0;
}

/* All of a fun is written: its size, which counts itself and what follows. */
static int finish_fun(Encoder *e, Frame *f)
{
    Writer *w = e->w;
    uint64_t size = writer_position(w) - f->head_at;
    if (size > UINT32_MAX)
        return refuse(e, "a fun of more than 4 GiB");
    put32(w->moves ? w->base + (f->head_at - w->before) : f->head, (uint32_t)size);
    if (--e->funs == 0)
        w->pass = e->pass;
    return 0;
}

static int begin_record(Encoder *e, PyObject *value)
{
    State *state = e->state;
    PyObject *exported = record_get(state, R_RECORD, value, RECORD_EXPORTED);
    PyObject *fields = record_get(state, R_RECORD, value, RECORD_FIELDS);
    PyObject *values = record_get(state, R_RECORD, value, RECORD_VALUES);
    if (e->o->dialect == DIALECT_LING)
        return refuse(e, "LING has no records");
    if (exported == NULL || !PyBool_Check(exported) || fields == NULL || !PyTuple_Check(fields) || values == NULL ||
        !PyTuple_Check(values) || PyTuple_GET_SIZE(fields) != PyTuple_GET_SIZE(values))
        return refuse(e, "a Record needs as many values as fields");
    Py_ssize_t n = PyTuple_GET_SIZE(fields);
    if (put_head(e, TAG_RECORD, n) < 0)
        return -1;
    *e->w->p++ = exported == Py_True;
    if (field_atom(e, R_RECORD, value, RECORD_MODULE) < 0 || field_atom(e, R_RECORD, value, RECORD_NAME) < 0)
        return -1;
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *name = PyTuple_GET_ITEM(fields, i);
        if (!Py_IS_TYPE(name, state->atom_type))
            return refuse(e, "a Record whose names are not Atoms");
        if (put_atom(e, (Atom *)name) < 0)
            return -1;
    }
    return n == 0 ? 0 : push(e, E_VALUES, value, values, n);
}

/* Anything that is none of the common exact types. */
static int begin_other(Encoder *e, PyObject *value)
{
    State *state = e->state;
    PyTypeObject *type = Py_TYPE(value);
    if (type == state->records[R_IMPROPER].type)
        return begin_improper(e, value);
    if (type == state->records[R_MAP].type) {
        PyObject *pairs = record_get(state, R_MAP, value, MAP_PAIRS);
        if (pairs == NULL || !PyTuple_Check(pairs))
            return refuse(e, "a Map needs a tuple of pairs");
        return begin_map(e, value, pairs);
    }
    if (type == state->port_type)
        return put_port(e, (Port *)value);
    if (type == state->records[R_EXPORT].type)
        return put_export(e, value);
    if (type == state->records[R_BITS].type)
        return put_bits(e, value);
    if (type == state->records[R_FUN].type)
        return begin_fun(e, value);
    if (type == state->records[R_RECORD].type)
        return begin_record(e, value);
    if (type == state->records[R_LING_PID].type)
        return put_ling_pid(e, value);
    if (type == state->records[R_LOCAL].type)
        return refuse(e, "a LocalTerm stands alone, and goes to no peer");
    if (PyLong_Check(value))
        return put_int(e, value);
    if (PyUnicode_Check(value))
        return put_str(e, value);
    if (PyBytes_Check(value))
        return put_bytes(e, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), value);
    if (PyTuple_Check(value))
        return begin_tuple(e, value);
    if (PyList_Check(value))
        return begin_list(e, value);
    if (PyDict_Check(value))
        return begin_map(e, value, NULL);
    if (PyFloat_Check(value))
        return put_float(e, PyFloat_AS_DOUBLE(value));
    if (PyByteArray_Check(value))
        return put_bytes(e, PyByteArray_AS_STRING(value), PyByteArray_GET_SIZE(value), NULL);
    if (PyMemoryView_Check(value))
        return put_view(e, value);
    return refuse(e, "%.100s has no Erlang term", type->tp_name);
}

static inline int begin(Encoder *e, PyObject *value)
{
    PyTypeObject *type = Py_TYPE(value);
    if (type == &PyLong_Type)
        return put_int(e, value);
    if (type == &PyBytes_Type)
        return put_bytes(e, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), value);
    if (type == e->state->atom_type)
        return put_atom(e, (Atom *)value);
    if (type == &PyUnicode_Type)
        return put_str(e, value);
    if (type == &PyFloat_Type)
        return put_float(e, PyFloat_AS_DOUBLE(value));
    if (type == &PyTuple_Type)
        return begin_tuple(e, value);
    if (type == &PyList_Type)
        return begin_list(e, value);
    if (type == &PyDict_Type)
        return begin_map(e, value, NULL);
    if (type == e->state->pid_type)
        return put_pid(e, (Pid *)value);
    if (type == e->state->reference_type)
        return put_reference(e, (Reference *)value);
    if (type == &PyBool_Type) {
        if (writer_need(e->w, 16) < 0)
            return -1;
        int truth = value == Py_True;
        uint8_t *p = e->w->p;
        *p++ = e->o->dialect == DIALECT_LING ? TAG_SMALL_ATOM : TAG_SMALL_ATOM_UTF8;
        *p++ = truth ? 4 : 5;
        memcpy(p, truth ? "true\0" : "false", 5);
        e->w->p = p + (truth ? 4 : 5);
        return 0;
    }
    if (value == Py_None)
        return put_atom(e, e->o->none);
    return begin_other(e, value);
}

static int changed(Encoder *e)
{
    return refuse(e, "a container changed while it was encoded");
}

/* The end of a map: could two of its keys have become one? */
static int finish_map(Encoder *e, Frame *f)
{
    if (f->in_key || (f->kind == E_DICT && !keys_may_meet(f->classes)))
        return 0;
    PyObject *obj = f->obj, *pairs = f->kind == E_PAIRS ? f->items : NULL;
    e->depth--; /* errors are of the map, not of its last value */
    int result = canonical_pairs(e, obj, pairs, NULL);
    if (result < 0 && PyErr_ExceptionMatches(e->state->encode_error))
        refuse(e, "two keys of a map become one term, or are maps nested too deep");
    e->depth++;
    return result;
}

/* The next element of the innermost frame into *item (borrowed), 0 when the frame is finished and gone. */
static inline int next_item(Encoder *e, PyObject **item)
{
    Frame *f = &e->stack[e->depth - 1];
    switch (f->kind) {
    case E_TUPLE:
    case E_FREE:
    case E_VALUES:
        if (f->i == f->n) {
            if (f->kind == E_FREE && finish_fun(e, f) < 0)
                return -1;
            break;
        }
        *item = PyTuple_GET_ITEM(f->items, f->i++);
        return 1;
    case E_LIST:
        if (f->i >= PyList_GET_SIZE(f->items)) {
            if (f->i != f->n)
                return changed(e);
            if (writer_need(e->w, 1) < 0)
                return -1;
            *e->w->p++ = TAG_NIL;
            break;
        }
        if (f->i == f->n)
            return changed(e);
        *item = PyList_GET_ITEM(f->items, f->i++);
        return 1;
    case E_IMPROPER:
        if (f->i > f->n)
            break;
        *item = f->i < f->n ? PyTuple_GET_ITEM(f->items, f->i)
                            : record_get(e->state, R_IMPROPER, f->obj, IMPROPER_TAIL);
        f->i++;
        return 1;
    case E_DICT:
        if (f->value_next) {
            f->value_next = 0;
            *item = f->items;
            return 1;
        }
        {
            PyObject *key, *value;
            if (!PyDict_Next(f->obj, &f->dict_at, &key, &value)) {
                if (f->i != f->n)
                    return changed(e);
                if (finish_map(e, f) < 0)
                    return -1;
                break;
            }
            if (f->i == f->n)
                return changed(e);
            f->i++;
            f->key = key;
            f->items = value;
            f->value_next = 1;
            f->classes |= key_classes(e->state, key, 0);
            *item = key;
            return 1;
        }
    case E_PAIRS: {
        PyObject *pair;
        if (f->value_next) {
            pair = PyTuple_GET_ITEM(f->items, f->i - 1);
            f->value_next = 0;
            *item = PyTuple_GET_ITEM(pair, 1);
            return 1;
        }
        if (f->i == f->n) {
            if (finish_map(e, f) < 0)
                return -1;
            break;
        }
        pair = PyTuple_GET_ITEM(f->items, f->i++);
        if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2)
            return refuse(e, "the pairs of a Map are tuples of two");
        f->value_next = 1;
        *item = PyTuple_GET_ITEM(pair, 0);
        return 1;
    }
    }
    e->depth--;
    return 0;
}

static int encode_nested(const EncodeOptions *o, Writer *w, PyObject *term, int canonical, int nesting)
{
    Encoder e;
    e.o = o;
    e.state = o->state;
    e.w = w;
    e.canonical = canonical;
    e.nesting = nesting;
    e.stack = e.inline_frames;
    e.depth = 0;
    e.funs = 0;
    e.room = INLINE_FRAMES;
    e.max_depth = o->dialect == DIALECT_LING ? MAX_LING_DEPTH : MAX_DEPTH;
    PyObject *item = term;
    int result = begin(&e, item);
    while (result == 0 && e.depth > 0) {
        int got = next_item(&e, &item);
        if (got > 0)
            result = begin(&e, item);
        else if (got < 0)
            result = -1;
    }
    if (e.funs > 0)
        w->pass = e.pass;
    if (e.stack != e.inline_frames)
        PyMem_Free(e.stack);
    return result;
}

int encode_term(const EncodeOptions *options, Writer *w, PyObject *term)
{
    State *state = options->state;
    if (options->top_local && Py_IS_TYPE(term, state->records[R_LOCAL].type) && options->dialect == DIALECT_OTP) {
        PyObject *data = record_get(state, R_LOCAL, term, LOCAL_DATA);
        if (data != NULL && PyBytes_Check(data)) {
            size_t length = (size_t)PyBytes_GET_SIZE(data);
            if (writer_need(w, length + 1) < 0)
                return -1;
            *w->p++ = TAG_LOCAL;
            memcpy(w->p, PyBytes_AS_STRING(data), length);
            w->p += length;
            return 0;
        }
    }
    return encode_nested(options, w, term, 0, 0);
}

PyObject *canonical_term(State *state, PyObject *term)
{
    EncodeOptions o = {.state = state, .none = state->undefined, .dialect = DIALECT_OTP};
    return canonical_bytes(&o, term, 0);
}

int keys_are_distinct(State *state, PyObject *pairs)
{
    EncodeOptions o = {.state = state, .none = state->undefined, .dialect = DIALECT_OTP};
    PyObject *seen = PySet_New(NULL);
    if (seen == NULL)
        return -1;
    Py_ssize_t n = PyTuple_GET_SIZE(pairs);
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *bytes = canonical_bytes(&o, PyTuple_GET_ITEM(PyTuple_GET_ITEM(pairs, i), 0), 0);
        int bad = bytes == NULL ? -1 : PySet_Add(seen, bytes);
        Py_XDECREF(bytes);
        if (bad < 0) {
            Py_DECREF(seen);
            return -1;
        }
    }
    int distinct = PySet_GET_SIZE(seen) == n;
    Py_DECREF(seen);
    return distinct;
}
