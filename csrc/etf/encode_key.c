/* When are two keys of a map one term? By a canonical encoding, in which every map stands in the order of its keys'
 * bytes: two terms are =:= exactly when their canonical bytes are the same. It is never sent. */
#include "encode.h"

int key_classes(State *state, PyObject *key, int depth)
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
int canonical_pairs(Encoder *e, PyObject *obj, PyObject *pairs, Writer *out)
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
