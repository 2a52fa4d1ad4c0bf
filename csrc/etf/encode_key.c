/* When are two keys of a map one term? By a canonical encoding, in which every map stands in the order of its keys'
 * bytes: two terms are =:= exactly when their canonical bytes are the same. It is never sent.
 *
 * The pairs of a map are written as they come and put in order in place when the map ends, so that maps within keys of
 * maps take no C stack, however deep. */
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

typedef struct {
    const uint8_t *key;
    size_t key_size, size;
} Pair;

static int compare_keys(const void *left, const void *right)
{
    const Pair *a = left, *b = right;
    int order = memcmp(a->key, b->key, a->key_size < b->key_size ? a->key_size : b->key_size);
    return order != 0 ? order : (a->key_size > b->key_size) - (a->key_size < b->key_size);
}

int mark_position(Encoder *e)
{
    if (e->mark_count == e->mark_room) {
        size_t room = e->mark_room == 0 ? 64 : 2 * e->mark_room;
        uint64_t *more = PyMem_Realloc(e->marks, room * sizeof *more);
        if (more == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        e->marks = more;
        e->mark_room = room;
    }
    e->marks[e->mark_count++] = writer_position(e->w);
    return 0;
}

int sort_pairs(Encoder *e, const Frame *f)
{
    Writer *w = e->w; /* a BytesWriter without pieces: all in one place, from base on */
    size_t n = (size_t)f->n, sorted = 1;
    const uint64_t *marks = e->marks + f->first_mark;
    e->mark_count = f->first_mark;
    if (n < 2)
        return 0;
    Pair *pairs = PyMem_Malloc(n * sizeof *pairs);
    if (pairs == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        uint64_t end = i + 1 < n ? marks[2 * i + 2] : writer_position(w);
        pairs[i].key = w->base + marks[2 * i];
        pairs[i].key_size = (size_t)(marks[2 * i + 1] - marks[2 * i]);
        pairs[i].size = (size_t)(end - marks[2 * i]);
        sorted &= i == 0 || compare_keys(&pairs[i - 1], &pairs[i]) < 0;
    }
    int result = 0;
    if (!sorted) {
        qsort(pairs, n, sizeof *pairs, compare_keys);
        for (size_t i = 1; i < n; i++)
            if (compare_keys(&pairs[i - 1], &pairs[i]) == 0)
                result = refuse(e, "two keys of a map become one term");
        uint8_t *start = w->base + marks[0], *copy = result < 0 ? NULL : PyMem_Malloc((size_t)(w->p - start));
        if (copy != NULL) {
            uint8_t *to = copy;
            for (size_t i = 0; i < n; i++) {
                memcpy(to, pairs[i].key, pairs[i].size);
                to += pairs[i].size;
            }
            memcpy(start, copy, (size_t)(to - copy));
            PyMem_Free(copy);
        } else if (result == 0) {
            PyErr_NoMemory();
            result = -1;
        }
    }
    PyMem_Free(pairs);
    return result;
}

PyObject *canonical_term(State *state, PyObject *term)
{
    EncodeOptions o = {.state = state, .none = state->undefined, .dialect = DIALECT_OTP};
    return canonical_bytes(&o, term);
}

PyObject *canonical_bytes(const EncodeOptions *options, PyObject *term)
{
    EncodeOptions o = {.state = options->state, .none = options->none, .dialect = DIALECT_OTP};
    BytesWriter b;
    bytes_writer_init(&b, NULL);
    if (encode_nested(&o, &b.w, term, 1) < 0) {
        bytes_writer_drop(&b);
        return NULL;
    }
    return bytes_writer_finish(&b);
}

static int add_key(const EncodeOptions *o, PyObject *seen, PyObject *key)
{
    PyObject *bytes = canonical_bytes(o, key);
    int result = bytes == NULL ? -1 : PySet_Add(seen, bytes);
    Py_XDECREF(bytes);
    return result;
}

int distinct_keys(const EncodeOptions *o, PyObject *dict, PyObject *pairs)
{
    PyObject *seen = PySet_New(NULL), *key;
    Py_ssize_t n = 0, at = 0;
    int bad = seen == NULL ? -1 : 0;
    if (pairs == NULL) {
        for (; bad == 0 && PyDict_Next(dict, &at, &key, NULL); n++)
            bad = add_key(o, seen, key);
    } else {
        for (; bad == 0 && n < PyTuple_GET_SIZE(pairs); n++)
            bad = add_key(o, seen, PyTuple_GET_ITEM(PyTuple_GET_ITEM(pairs, n), 0));
    }
    int distinct = bad < 0 ? -1 : PySet_GET_SIZE(seen) == n;
    Py_XDECREF(seen);
    return distinct;
}

int keys_are_distinct(State *state, PyObject *pairs)
{
    EncodeOptions o = {.state = state, .none = state->undefined, .dialect = DIALECT_OTP};
    return distinct_keys(&o, NULL, pairs);
}
