/* Bytes to terms (erl_ext_dist). Iterative, every read checked, no Python code run except the hash and equality of
 * Export and BitString map keys.
 *
 * Memory is justified by the input: a container is allocated only when the bytes that are left, less one for each
 * element that the containers around it still wait for, can hold its elements.
 */
#include "etf.h"

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
} Frame;

#define INLINE_FRAMES 32

static int fail(Decoder *d, const uint8_t *at, const char *error)
{
    d->error = error;
    d->error_at = at;
    return -1;
}

static const uint8_t *refuse(Decoder *d, const uint8_t *at, const char *error)
{
    fail(d, at, error);
    return NULL;
}

static const char TRUNCATED[] = "the data ends within a term";

/* ---- leaves; each takes p at the tag and gives the byte after the leaf, or NULL ---- */

static const uint8_t *latin1_atom(Decoder *d, const uint8_t *text, size_t length, Atom **atom)
{
    uint8_t utf8[2 * MAX_ATOM_CHARS];
    size_t n = 0;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < 0x80) {
            utf8[n++] = text[i];
        } else {
            utf8[n++] = (uint8_t)(0xC0 | text[i] >> 6);
            utf8[n++] = (uint8_t)(0x80 | (text[i] & 0x3F));
        }
    }
    *atom = atom_from_utf8(d->state, utf8, n);
    return *atom == NULL ? NULL : text + length;
}

static inline const uint8_t *read_atom(Decoder *d, const uint8_t *p, Atom **atom)
{
    const uint8_t *tag = p;
    size_t length, have = (size_t)(d->end - p);
    if (have < 2)
        return refuse(d, d->end, TRUNCATED);
    if (*p == TAG_SMALL_ATOM_UTF8 || *p == TAG_SMALL_ATOM) {
        length = p[1];
        p += 2;
        have -= 2;
    } else if (*p == TAG_ATOM || *p == TAG_ATOM_UTF8) {
        if (have < 3)
            return refuse(d, d->end, TRUNCATED);
        length = get16(p + 1);
        p += 3;
        have -= 3;
    } else {
        return refuse(d, p, "an atom was expected");
    }
    if (have < length)
        return refuse(d, d->end, TRUNCATED);
    if (*tag == TAG_ATOM || *tag == TAG_SMALL_ATOM) {
        if (length > MAX_ATOM_CHARS)
            return refuse(d, tag, "an atom of more than 255 characters");
        const uint8_t *next = latin1_atom(d, p, length, atom);
        if (next == NULL)
            d->error = NULL;
        return next;
    }
    *atom = atom_from_utf8(d->state, p, length);
    if (*atom == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_ValueError)) {
            d->error = NULL;
            return NULL;
        }
        int unicode = PyErr_ExceptionMatches(PyExc_UnicodeError);
        PyErr_Clear();
        return refuse(d, tag, unicode ? "an atom that is not UTF-8" : "an atom of more than 255 characters");
    }
    return p + length;
}

static const uint8_t *read_pid(Decoder *d, const uint8_t *p, PyObject **pid)
{
    const uint8_t *tag = p;
    Atom *node;
    uint32_t creation;
    if (*tag != TAG_NEW_PID && *tag != TAG_PID)
        return refuse(d, tag, "a pid was expected");
    if ((p = read_atom(d, p + 1, &node)) == NULL)
        return NULL;
    size_t need = *tag == TAG_NEW_PID ? 12 : 9;
    if ((size_t)(d->end - p) < need) {
        Py_DECREF(node);
        return refuse(d, d->end, TRUNCATED);
    }
    creation = *tag == TAG_NEW_PID ? get32(p + 8) : p[8];
    if (*tag == TAG_PID && creation > 3) {
        Py_DECREF(node);
        return refuse(d, p + 8, "an old creation above 3");
    }
    if ((*pid = pid_new(d->state, node, get32(p), get32(p + 4), creation)) == NULL) {
        d->error = NULL;
        return NULL;
    }
    return p + need;
}

static const uint8_t *read_port(Decoder *d, const uint8_t *p, PyObject **port)
{
    const uint8_t *tag = p;
    Atom *node;
    if ((p = read_atom(d, p + 1, &node)) == NULL)
        return NULL;
    size_t id_size = *tag == TAG_V4_PORT ? 8 : 4, creation_size = *tag == TAG_PORT ? 1 : 4;
    if ((size_t)(d->end - p) < id_size + creation_size) {
        Py_DECREF(node);
        return refuse(d, d->end, TRUNCATED);
    }
    uint64_t id = id_size == 8 ? get64(p) : get32(p);
    p += id_size;
    uint32_t creation = creation_size == 1 ? *p : get32(p);
    if (*tag == TAG_PORT && creation > 3) {
        Py_DECREF(node);
        return refuse(d, p, "an old creation above 3");
    }
    if ((*port = port_new(d->state, node, id, creation)) == NULL) {
        d->error = NULL;
        return NULL;
    }
    return p + creation_size;
}

static const uint8_t *read_reference(Decoder *d, const uint8_t *p, PyObject **ref)
{
    const uint8_t *tag = p;
    Atom *node;
    uint32_t words = 1;
    if (*tag != TAG_REFERENCE) {
        if (d->end - p < 3)
            return refuse(d, d->end, TRUNCATED);
        words = get16(p + 1);
        p += 2;
        if (words < 1 || words > MAX_REF_WORDS)
            return refuse(d, tag + 1, "a reference has 1 to 5 words");
    }
    if ((p = read_atom(d, p + 1, &node)) == NULL)
        return NULL;
    size_t creation_size = *tag == TAG_NEWER_REFERENCE ? 4 : 1;
    if ((size_t)(d->end - p) < 4 * words + creation_size) {
        Py_DECREF(node);
        return refuse(d, d->end, TRUNCATED);
    }
    const uint8_t *ids = *tag == TAG_REFERENCE ? p : p + creation_size;
    const uint8_t *at = *tag == TAG_REFERENCE ? p + 4 : p;
    uint32_t creation = creation_size == 4 ? get32(at) : *at;
    if (creation_size == 1 && creation > 3) {
        Py_DECREF(node);
        return refuse(d, at, "an old creation above 3");
    }
    Reference *self = reference_new(d->state, node, creation, words);
    if (self == NULL) {
        d->error = NULL;
        return NULL;
    }
    for (uint32_t i = 0; i < words; i++)
        self->ids[i] = get32(ids + 4 * i);
    *ref = (PyObject *)self;
    return p + 4 * words + creation_size;
}

static PyObject *big_to_int(const uint8_t *digits, size_t count, int negative)
{
    while (count > 0 && digits[count - 1] == 0)
        count--;
    if (count <= 8) {
        uint64_t magnitude = 0;
        for (size_t i = 0; i < count; i++)
            magnitude |= (uint64_t)digits[i] << 8 * i;
        if (!negative)
            return PyLong_FromUnsignedLongLong(magnitude);
        if (magnitude <= (uint64_t)INT64_MAX)
            return PyLong_FromLongLong(-(int64_t)magnitude);
    }
    PyObject *positive = _PyLong_FromByteArray(digits, count, 1, 0);
    if (!negative || positive == NULL)
        return positive;
    PyObject *value = PyNumber_Negative(positive);
    Py_DECREF(positive);
    return value;
}

static const uint8_t *read_int(Decoder *d, const uint8_t *p, PyObject **value)
{
    size_t have = (size_t)(d->end - p), count, head;
    switch (*p) {
    case TAG_SMALL_INTEGER:
        if (have < 2)
            return refuse(d, d->end, TRUNCATED);
        *value = Py_NewRef(d->state->small[p[1]]);
        return p + 2;
    case TAG_INTEGER:
        if (have < 5)
            return refuse(d, d->end, TRUNCATED);
        *value = PyLong_FromLong((int32_t)get32(p + 1));
        p += 5;
        break;
    case TAG_SMALL_BIG:
    case TAG_LARGE_BIG:
        head = *p == TAG_SMALL_BIG ? 3 : 6;
        if (have < head)
            return refuse(d, d->end, TRUNCATED);
        count = head == 3 ? p[1] : get32(p + 1);
        if (have - head < count)
            return refuse(d, d->end, TRUNCATED);
        if (count > MAX_DECODED_BIG)
            return refuse(d, p, "an integer larger than OTP's largest");
        if (p[head - 1] > 1)
            return refuse(d, p + head - 1, "the sign of an integer is 0 or 1");
        *value = big_to_int(p + head, count, p[head - 1]);
        p += head + count;
        break;
    default:
        return refuse(d, p, "an integer was expected");
    }
    if (*value == NULL) {
        d->error = NULL;
        return NULL;
    }
    return p;
}

static const uint8_t *read_float(Decoder *d, const uint8_t *p, PyObject **value)
{
    double number;
    const uint8_t *tag = p;
    if (*tag == TAG_NEW_FLOAT) {
        if (d->end - p < 9)
            return refuse(d, d->end, TRUNCATED);
        uint64_t bits = get64(p + 1);
        if ((bits & 0x7FF0000000000000u) == 0x7FF0000000000000u)
            return refuse(d, tag, "a float that is not finite");
        memcpy(&number, &bits, 8);
        p += 9;
    } else {
        char text[32];
        char *stop;
        if (d->end - p < 32)
            return refuse(d, d->end, TRUNCATED);
        memcpy(text, p + 1, 31);
        text[31] = 0;
        number = PyOS_string_to_double(text, &stop, NULL);
        if (PyErr_Occurred() || *stop != 0 || stop == text || !(number - number == 0)) {
            if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_ValueError)) {
                d->error = NULL;
                return NULL;
            }
            PyErr_Clear();
            return refuse(d, tag, "an old float that is not a finite number");
        }
        p += 32;
    }
    if ((*value = PyFloat_FromDouble(number)) == NULL) {
        d->error = NULL;
        return NULL;
    }
    return p;
}

static const uint8_t *read_binary(Decoder *d, const uint8_t *p, PyObject **value)
{
    size_t have = (size_t)(d->end - p), head = *p == TAG_BINARY ? 5 : 6, length;
    if (have < head)
        return refuse(d, d->end, TRUNCATED);
    length = get32(p + 1);
    if (have - head < length)
        return refuse(d, d->end, TRUNCATED);
    uint8_t bits = head == 6 ? p[5] : 8;
    if (head == 6 && (bits > 8 || (bits == 0) != (length == 0)))
        return refuse(d, p + 5, "the last byte of a bitstring has 1 to 8 bits");
    PyObject *data = PyBytes_FromStringAndSize((const char *)p + head, (Py_ssize_t)length);
    if (data == NULL) {
        d->error = NULL;
        return NULL;
    }
    *value = data;
    if (length > 0 && bits < 8) {
        /* the unused bits mean nothing: cleared, so that equal terms are equal here */
        PyBytes_AS_STRING(data)[length - 1] = (char)(p[head + length - 1] & (0xFF00 >> bits));
        if ((*value = record_new(d->state, R_BITS)) == NULL) {
            Py_DECREF(data);
            d->error = NULL;
            return NULL;
        }
        record_set(d->state, R_BITS, *value, BITS_DATA, data);
        record_set(d->state, R_BITS, *value, BITS_BITS, Py_NewRef(d->state->small[bits]));
    }
    return p + head + length;
}

static const uint8_t *read_string(Decoder *d, const uint8_t *p, PyObject **value)
{
    size_t have = (size_t)(d->end - p), length;
    if (have < 3)
        return refuse(d, d->end, TRUNCATED);
    length = get16(p + 1);
    if (have - 3 < length)
        return refuse(d, d->end, TRUNCATED);
    PyObject *list = PyList_New((Py_ssize_t)length);
    if (list == NULL) {
        d->error = NULL;
        return NULL;
    }
    p += 3;
    PyObject **items = ((PyListObject *)list)->ob_item, **small = d->state->small;
    for (size_t i = 0; i < length; i++)
        items[i] = Py_NewRef(small[p[i]]);
    *value = list;
    return p + length;
}

static const uint8_t *read_export(Decoder *d, const uint8_t *p, PyObject **value)
{
    Atom *module, *function;
    PyObject *arity;
    if ((p = read_atom(d, p + 1, &module)) == NULL)
        return NULL;
    if ((p = read_atom(d, p, &function)) == NULL) {
        Py_DECREF(module);
        return NULL;
    }
    const uint8_t *tag = p;
    if (p == d->end || *tag != TAG_SMALL_INTEGER) {
        p = p == d->end ? refuse(d, p, TRUNCATED) : refuse(d, p, "the arity of an export is one byte");
    } else {
        p = read_int(d, p, &arity);
    }
    if (p == NULL || (*value = record_new(d->state, R_EXPORT)) == NULL) {
        if (p != NULL) {
            Py_DECREF(arity);
            d->error = NULL;
        }
        Py_DECREF(module);
        Py_DECREF(function);
        return NULL;
    }
    record_set(d->state, R_EXPORT, *value, EXPORT_MODULE, (PyObject *)module);
    record_set(d->state, R_EXPORT, *value, EXPORT_FUNCTION, (PyObject *)function);
    record_set(d->state, R_EXPORT, *value, EXPORT_ARITY, arity);
    return p;
}

static const uint8_t *read_ling_pid(Decoder *d, const uint8_t *p, PyObject **value)
{
    if (d->end - p < 17)
        return refuse(d, d->end, TRUNCATED);
    *value = record_new(d->state, R_LING_PID);
    PyObject *boxid = PyLong_FromUnsignedLongLong(get64(p + 1));
    PyObject *domid = PyLong_FromUnsignedLong(get32(p + 9));
    PyObject *id = PyLong_FromUnsignedLong(get32(p + 13));
    if (*value == NULL || boxid == NULL || domid == NULL || id == NULL) {
        Py_XDECREF(*value);
        Py_XDECREF(boxid);
        Py_XDECREF(domid);
        Py_XDECREF(id);
        d->error = NULL;
        return NULL;
    }
    record_set(d->state, R_LING_PID, *value, LING_BOXID, boxid);
    record_set(d->state, R_LING_PID, *value, LING_DOMID, domid);
    record_set(d->state, R_LING_PID, *value, LING_ID, id);
    return p + 17;
}

/* ---- containers with more than elements ---- */

/* A fun up to its free variables: *fun gets all fields but FUN_FREE, *count the number of those. */
static const uint8_t *read_fun_head(Decoder *d, const uint8_t *p, PyObject **fun, Py_ssize_t *count,
                                    const uint8_t **end)
{
    State *state = d->state;
    PyObject *value;
    Atom *module;
    size_t size;
    if (d->end - p < 30)
        return refuse(d, d->end, TRUNCATED);
    size = get32(p + 1);
    if (size < 29 || size > (size_t)(d->end - p - 1))
        return refuse(d, p + 1, "the size of a fun is wrong");
    *end = p + 1 + size;
    *count = (Py_ssize_t)get32(p + 26);
    if ((*fun = record_new(state, R_FUN)) == NULL)
        goto raised;
    record_set(state, R_FUN, *fun, FUN_ARITY, Py_NewRef(state->small[p[5]]));
    if ((value = PyBytes_FromStringAndSize((const char *)p + 6, 16)) == NULL)
        goto raised;
    record_set(state, R_FUN, *fun, FUN_UNIQ, value);
    if ((value = PyLong_FromUnsignedLong(get32(p + 22))) == NULL)
        goto raised;
    record_set(state, R_FUN, *fun, FUN_INDEX, value);
    if ((p = read_atom(d, p + 30, &module)) == NULL)
        goto failed;
    record_set(state, R_FUN, *fun, FUN_MODULE, (PyObject *)module);
    for (int field = FUN_OLD_INDEX; field <= FUN_PID; field++) {
        if (p == d->end) {
            refuse(d, p, TRUNCATED);
            goto failed;
        }
        if ((p = field == FUN_PID ? read_pid(d, p, &value) : read_int(d, p, &value)) == NULL)
            goto failed;
        record_set(state, R_FUN, *fun, field, value);
    }
    return p;
raised:
    d->error = NULL;
failed:
    Py_CLEAR(*fun);
    return NULL;
}

/* A record up to its values. */
static const uint8_t *read_record_head(Decoder *d, const uint8_t *p, size_t owed, PyObject **record, Py_ssize_t *count)
{
    State *state = d->state;
    Atom *atom;
    PyObject *names;
    if (d->end - p < 6)
        return refuse(d, d->end, TRUNCATED);
    size_t fields = get32(p + 1), have = (size_t)(d->end - p);
    if (have < owed || fields * 3 > have - owed) /* a name is two bytes at least, a value one */
        return refuse(d, p + 1, "more fields than bytes");
    if (p[5] > 1)
        return refuse(d, p + 5, "the export mark of a record is 0 or 1");
    if ((*record = record_new(state, R_RECORD)) == NULL) {
        d->error = NULL;
        return NULL;
    }
    record_set(state, R_RECORD, *record, RECORD_EXPORTED, Py_NewRef(p[5] ? Py_True : Py_False));
    *count = (Py_ssize_t)fields;
    p += 6;
    for (int field = RECORD_MODULE; field <= RECORD_NAME; field++) {
        if ((p = read_atom(d, p, &atom)) == NULL)
            goto failed;
        record_set(state, R_RECORD, *record, field, (PyObject *)atom);
    }
    if ((names = PyTuple_New(*count)) == NULL) {
        d->error = NULL;
        goto failed;
    }
    record_set(state, R_RECORD, *record, RECORD_FIELDS, names);
    for (Py_ssize_t i = 0; i < *count; i++) {
        if ((p = read_atom(d, p, &atom)) == NULL)
            goto failed;
        PyTuple_SET_ITEM(names, i, (PyObject *)atom);
    }
    return p;
failed:
    Py_CLEAR(*record);
    return NULL;
}

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
    int distinct = pairs == NULL ? -1 : keys_are_distinct(d->state, pairs);
    if (distinct < 0 && pairs != NULL && d->state->encode_error && PyErr_ExceptionMatches(d->state->encode_error)) {
        PyErr_Clear();
        fail(d, f->at, "maps are nested too deep within keys of maps");
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
    Frame f = {F_ROOT, NULL, NULL, 1, 0, NULL, NULL, p, NULL};
    PyObject *v = NULL, *extra;
    Atom *atom;
    size_t count;
    FrameKind kind;
    const uint8_t *begin, *q, *fun_end;

    for (;;) {
        if (p >= end) {
            fail(d, end, TRUNCATED);
            goto failed;
        }
        begin = p;
        v = NULL;
        switch (*p) {
        case TAG_SMALL_INTEGER:
            if (end - p < 2)
                goto truncated;
            v = Py_NewRef(state->small[p[1]]);
            p += 2;
            break;
        case TAG_INTEGER:
            if (end - p < 5)
                goto truncated;
            if ((v = PyLong_FromLong((int32_t)get32(p + 1))) == NULL)
                goto raised;
            p += 5;
            break;
        case TAG_SMALL_BIG:
        case TAG_LARGE_BIG:
            if ((q = read_int(d, p, &v)) == NULL)
                goto leaf_failed;
            p = q;
            break;
        case TAG_NEW_FLOAT:
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
            if ((q = read_pid(d, p, &v)) == NULL)
                goto leaf_failed;
            p = q;
            break;
        case TAG_NEWER_REFERENCE:
        case TAG_NEW_REFERENCE:
        case TAG_REFERENCE:
            if ((q = read_reference(d, p, &v)) == NULL)
                goto leaf_failed;
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
    if ((zlib = PyImport_ImportModule("zlib")) == NULL || (stream = PyObject_CallMethod(zlib, "decompressobj", NULL)) == NULL)
        goto done;
    /* one byte more than announced shows that there is more, and lets the stream reach its end */
    data = PyObject_CallMethod(stream, "decompress", "y#n", (const char *)p + 5, (Py_ssize_t)(d->end - p - 5),
                               (Py_ssize_t)size + 1);
    if (data == NULL) {
        PyObject *zlib_error = PyObject_GetAttrString(zlib, "error");
        PyObject *type, *value, *trace;
        PyErr_Fetch(&type, &value, &trace);
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

static int option_size(PyObject *value, const char *name, Py_ssize_t *size)
{
    *size = PyLong_Check(value) ? PyLong_AsSsize_t(value) : -1;
    if (*size < 0) {
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_ValueError, "%s must be an int, 0 or more", name);
        return -1;
    }
    return 0;
}

static PyObject *decode_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, int prefix)
{
    State *state = state_of(module);
    Py_buffer view;
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
        } else {
            PyErr_Format(PyExc_TypeError, "unexpected keyword argument %R", name);
            return NULL;
        }
    }
    if (PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE) < 0)
        return NULL;
    d.start = view.buf;
    d.end = d.start + view.len;
    const uint8_t *p = d.start;
    int collecting = PyGC_Disable();
    PyObject *term = decode_top(&d, &p);
    if (collecting)
        PyGC_Enable();
    if (term != NULL && !prefix && p != d.end) {
        Py_CLEAR(term);
        fail(&d, p, "data after the term");
    }
    if (term == NULL)
        decode_error_raise(&d);
    PyBuffer_Release(&view);
    return term == NULL || !prefix ? term : Py_BuildValue("Nn", term, (Py_ssize_t)(p - d.start));
}

PyObject *etf_decode(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return decode_call(module, args, nargs, kwnames, 0);
}

PyObject *etf_decode_prefix(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return decode_call(module, args, nargs, kwnames, 1);
}
