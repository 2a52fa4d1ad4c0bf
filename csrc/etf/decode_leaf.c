/* Terms without terms inside, and the heads of funs and records. Every read is checked against the end. */
#include "decode.h"
#include "long.h"

static const uint8_t *refuse(Decoder *d, const uint8_t *at, const char *error)
{
    fail(d, at, error);
    return NULL;
}

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

const uint8_t *read_atom(Decoder *d, const uint8_t *p, Atom **atom)
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

const uint8_t *read_pid(Decoder *d, const uint8_t *p, PyObject **pid)
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

const uint8_t *read_port(Decoder *d, const uint8_t *p, PyObject **port)
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

const uint8_t *read_reference(Decoder *d, const uint8_t *p, PyObject **ref)
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
#ifdef ETF_KNOWN_LONG
        if (magnitude > 256)
            return long_from_u64(magnitude, negative);
#endif
        if (!negative)
            return PyLong_FromUnsignedLongLong(magnitude);
        if (magnitude <= (uint64_t)INT64_MAX)
            return PyLong_FromLongLong(-(int64_t)magnitude);
    }
#ifdef ETF_KNOWN_LONG
    return long_from_bytes(digits, count, negative);
#else
    PyObject *positive = _PyLong_FromByteArray(digits, count, 1, 0);
    if (!negative || positive == NULL)
        return positive;
    PyObject *value = PyNumber_Negative(positive);
    Py_DECREF(positive);
    return value;
#endif
}

const uint8_t *read_int(Decoder *d, const uint8_t *p, PyObject **value)
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
        *value = big_to_int(p + head, count, p[head - 1] != 0); /* any sign byte but 0 is minus, as in OTP */
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

const uint8_t *read_float(Decoder *d, const uint8_t *p, PyObject **value)
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

const uint8_t *read_binary(Decoder *d, const uint8_t *p, PyObject **value)
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
    /* bytes objects of one byte are shared: a copy of our own where it is changed */
    int whole = length == 0 || bits == 8;
    PyObject *data = PyBytes_FromStringAndSize(whole ? (const char *)p + head : NULL, (Py_ssize_t)length);
    if (data == NULL) {
        d->error = NULL;
        return NULL;
    }
    *value = data;
    if (!whole) {
        memcpy(PyBytes_AS_STRING(data), p + head, length);
        /* the unused bits mean nothing: cleared, so that equal terms are equal here */
        PyBytes_AS_STRING(data)[length - 1] &= (char)(0xFF00 >> bits);
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

const uint8_t *read_string(Decoder *d, const uint8_t *p, PyObject **value)
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

const uint8_t *read_export(Decoder *d, const uint8_t *p, PyObject **value)
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
    if (p == d->end) {
        p = refuse(d, p, TRUNCATED);
    } else if ((p = read_int(d, p, &arity)) != NULL && PyObject_RichCompareBool(arity, d->state->small[255], Py_GT)) {
        Py_DECREF(arity);
        p = refuse(d, tag, "the arity of an export is at most 255");
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

const uint8_t *read_ling_pid(Decoder *d, const uint8_t *p, PyObject **value)
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

const uint8_t *read_fun_head(Decoder *d, const uint8_t *p, PyObject **fun, Py_ssize_t *count, const uint8_t **end)
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
        if (field == FUN_PID && d->crossing != NULL && *p == TAG_LING_PID)
            p = read_crossing_pid(d, p, &value);
        else
            p = field == FUN_PID ? read_pid(d, p, &value) : read_int(d, p, &value);
        if (p == NULL)
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

const uint8_t *read_record_head(Decoder *d, const uint8_t *p, size_t owed, PyObject **record, Py_ssize_t *count)
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
