/* Terms without terms inside, from Python values. */
#include "encode.h"
#include "long.h"

int put_atom(Encoder *e, const Atom *atom)
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

int put_big(Encoder *e, PyObject *value)
{
    Writer *w = e->w;
    int overflow;
#ifdef ETF_KNOWN_LONG
    const digit *digits = long_digits(value);
    overflow = long_is_negative(value) ? -1 : 1;
    if (long_digit_count(value) == 2) {
        if (writer_need(w, 16) < 0)
            return -1;
        w->p = put_i64(w->p, overflow * (int64_t)(digits[0] | (uint64_t)digits[1] << 30));
        return 0;
    }
#else
    long long small = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow == 0) {
        if (small == -1 && PyErr_Occurred())
            return -1;
        if (writer_need(w, 16) < 0)
            return -1;
        w->p = put_i64(w->p, small);
        return 0;
    }
#endif
#ifdef ETF_KNOWN_LONG
    size_t bits = long_bits(value);
#else
    PyObject *magnitude = overflow < 0 ? PyLong_Type.tp_as_number->nb_absolute(value) : Py_NewRef(value);
    if (magnitude == NULL)
        return -1;
    size_t bits = _PyLong_NumBits(magnitude);
#endif
    size_t count = bits / 8 + (bits % 8 != 0);
    int result = -1;
    if (count > MAX_ENCODED_BIG) {
        refuse(e, "an integer of more than %d bytes", MAX_ENCODED_BIG);
    } else if (writer_need(w, count + 16) == 0) {
        uint8_t *p = w->p;
        p[0] = count < 256 ? TAG_SMALL_BIG : TAG_LARGE_BIG;
        if (count < 256)
            p[1] = (uint8_t)count;
        else
            put32(p + 1, (uint32_t)count);
        p += count < 256 ? 2 : 5;
        *p++ = overflow < 0;
#ifdef ETF_KNOWN_LONG
        long_to_bytes(value, p);
        result = 0;
#elif PY_VERSION_HEX >= 0x030D0000
        result = _PyLong_AsByteArray((PyLongObject *)magnitude, p, count, 1, 0, 1);
#else
        result = _PyLong_AsByteArray((PyLongObject *)magnitude, p, count, 1, 0);
#endif
        w->p = p + count;
    }
#ifndef ETF_KNOWN_LONG
    Py_DECREF(magnitude);
#endif
    return result;
}

int put_float(Encoder *e, double number)
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

int put_bytes(Encoder *e, const char *data, Py_ssize_t length, PyObject *owner)
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

int put_str(Encoder *e, PyObject *text)
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

int put_pid(Encoder *e, const Pid *pid)
{
    return e->o->crossing != NULL ? cross_pid(e, pid) : put_plain_pid(e, pid);
}

int put_plain_pid(Encoder *e, const Pid *pid)
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

int put_port(Encoder *e, const Port *port)
{
    int ling = e->o->dialect == DIALECT_LING;
    if (ling && (port->id >= 1 << 18 || port->creation > 3))
        return refuse(e, "LING has no port %R", port);
    if (writer_need(e->w, 1) < 0)
        return -1;
    *e->w->p++ = ling ? TAG_PORT : TAG_V4_PORT; /* as OTP 28, however small */
    if (put_atom(e, port->node) < 0 || writer_need(e->w, 12) < 0)
        return -1;
    uint8_t *p = e->w->p;
    if (ling) {
        put32(p, (uint32_t)port->id);
        p[4] = (uint8_t)port->creation;
        e->w->p += 5;
    } else {
        put64(p, port->id);
        put32(p + 8, port->creation);
        e->w->p += 12;
    }
    return 0;
}

int put_reference(Encoder *e, const Reference *ref)
{
    return e->o->crossing != NULL ? cross_reference(e, ref) : put_plain_reference(e, ref);
}

int put_plain_reference(Encoder *e, const Reference *ref)
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

int put_view(Encoder *e, PyObject *value)
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

int field_atom(Encoder *e, RecordKind kind, PyObject *record, int field)
{
    PyObject *value = record_get(e->state, kind, record, field);
    if (value == NULL || !Py_IS_TYPE(value, e->state->atom_type))
        return refuse(e, "a %s whose names are not Atoms", Py_TYPE(record)->tp_name);
    return put_atom(e, (Atom *)value);
}

int field_word(Encoder *e, RecordKind kind, PyObject *record, int field, uint64_t limit, uint64_t *word)
{
    PyObject *value = record_get(e->state, kind, record, field);
    if (value != NULL && PyLong_Check(value)) {
        *word = PyLong_AsUnsignedLongLong(value);
        if (!(*word == (uint64_t)-1 && PyErr_Occurred()) && *word <= limit)
            return 0;
    }
    return refuse(e, "a %s with a number out of range", Py_TYPE(record)->tp_name);
}

int put_export(Encoder *e, PyObject *value)
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

int put_bits(Encoder *e, PyObject *value)
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

int put_ling_pid(Encoder *e, PyObject *value)
{
    uint64_t boxid = 0, domid = 0, id = 0;
    if (e->o->crossing != NULL)
        return refuse(e, "a LingPid is for raw frames: its process has a Pid here");
    if (e->o->dialect != DIALECT_LING && !e->canonical)
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
