/* Where encoded bytes go when they are not queued for a connection, and the module's encoding functions. */
#include "crossing.h"

static int bytes_grow(Writer *w, size_t need)
{
    BytesWriter *b = (BytesWriter *)w;
    size_t used = (size_t)(w->p - w->base), have = (size_t)(w->end - w->base), want = have + have / 2;
    if (want < used + need)
        want = used + need;
    if (want < 4096)
        want = 4096;
    if (want > PY_SSIZE_T_MAX / 2) {
        PyErr_NoMemory();
        return -1;
    }
    if (b->bytes == NULL) {
        b->bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)want);
        if (b->bytes == NULL)
            return -1;
        memcpy(PyBytes_AS_STRING(b->bytes), w->base, used);
    } else if (_PyBytes_Resize(&b->bytes, (Py_ssize_t)want) < 0) {
        w->base = w->p = w->end = b->small; /* it is gone */
        return -1;
    }
    w->base = (uint8_t *)PyBytes_AS_STRING(b->bytes);
    w->p = w->base + used;
    w->end = w->base + want;
    return 0;
}

static void bytes_rewind(BytesWriter *b)
{
    b->bytes = NULL;
    b->w.base = b->w.p = b->small;
    b->w.end = b->small + sizeof b->small;
}

PyObject *bytes_writer_finish(BytesWriter *b)
{
    PyObject *bytes = b->bytes;
    size_t used = (size_t)(b->w.p - b->w.base);
    if (bytes == NULL)
        bytes = PyBytes_FromStringAndSize((const char *)b->w.base, (Py_ssize_t)used);
    else
        _PyBytes_Resize(&bytes, (Py_ssize_t)used);
    b->w.before += used;
    bytes_rewind(b);
    return bytes;
}

void bytes_writer_drop(BytesWriter *b)
{
    Py_CLEAR(b->bytes);
}

static int append_new(PyObject *list, PyObject *item) /* steals item */
{
    int result = item == NULL ? -1 : PyList_Append(list, item);
    Py_XDECREF(item);
    return result;
}

static int bytes_pass(Writer *w, PyObject *big_bytes)
{
    BytesWriter *b = (BytesWriter *)w;
    if (append_new(b->pieces, bytes_writer_finish(b)) < 0 || PyList_Append(b->pieces, big_bytes) < 0)
        return -1;
    w->before += (uint64_t)PyBytes_GET_SIZE(big_bytes);
    return 0;
}

void bytes_writer_init(BytesWriter *b, PyObject *pieces)
{
    b->pieces = pieces;
    b->w.before = 0;
    b->w.moves = 1;
    b->w.grow = bytes_grow;
    b->w.pass = pieces == NULL ? NULL : bytes_pass;
    bytes_rewind(b);
}

/* ---- options ---- */

int dialect_argument(PyObject *value)
{
    if (PyUnicode_Check(value)) {
        if (PyUnicode_CompareWithASCIIString(value, "otp") == 0)
            return DIALECT_OTP;
        if (PyUnicode_CompareWithASCIIString(value, "ling") == 0)
            return DIALECT_LING;
    }
    PyErr_SetString(PyExc_ValueError, "dialect must be 'otp' or 'ling'");
    return -1;
}

Atom *none_argument(State *state, PyObject *value)
{
    if (Py_IS_TYPE(value, state->atom_type))
        return (Atom *)Py_NewRef(value);
    if (PyUnicode_Check(value))
        return atom_from_str(state, value);
    PyErr_SetString(PyExc_TypeError, "none must be a str or an Atom");
    return NULL;
}

enum { FOR_BYTES, FOR_PIECES, FOR_FRAME };

/* Keyword arguments of the encoding functions. options->none becomes a reference that the caller gives back. */
static int parse_options(State *state, EncodeOptions *options, PyObject *const *values, PyObject *kwnames, int what)
{
    int frame = what == FOR_FRAME;
    memset(options, 0, sizeof *options);
    options->state = state;
    options->none = (Atom *)Py_NewRef(state->undefined);
    options->top_local = !frame;
    for (Py_ssize_t i = 0; kwnames != NULL && i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        if (PyUnicode_CompareWithASCIIString(name, "none") == 0) {
            Atom *none = none_argument(state, values[i]);
            if (none == NULL)
                goto failed;
            Py_SETREF(options->none, none);
        } else if (!frame && PyUnicode_CompareWithASCIIString(name, "dialect") == 0) {
            if ((options->dialect = dialect_argument(values[i])) < 0)
                goto failed;
        } else if (!frame && PyUnicode_CompareWithASCIIString(name, "ling_maps") == 0) {
            if ((options->ling_maps = PyObject_IsTrue(values[i])) < 0)
                goto failed;
        } else if (what == FOR_BYTES && PyUnicode_CompareWithASCIIString(name, "crossing") == 0) {
            if (values[i] != Py_None && !Py_IS_TYPE(values[i], state->crossing_type)) {
                PyErr_SetString(PyExc_TypeError, "crossing must be a Crossing or None");
                goto failed;
            }
            options->crossing = values[i] == Py_None ? NULL : (Crossing *)values[i];
        } else {
            PyErr_Format(PyExc_TypeError, "unexpected keyword argument %R", name);
            goto failed;
        }
    }
    return 0;
failed:
    Py_DECREF(options->none);
    return -1;
}

/* ---- functions ---- */

int too_big(State *state)
{
    PyObject *error = PyObject_CallFunction(state->encode_error, "s", "a message of more than 4 GiB");
    if (error != NULL)
        PyErr_SetObject(state->encode_error, error);
    Py_XDECREF(error);
    return -1;
}

int encode_frame_body(const EncodeOptions *options, Writer *w, PyObject *control, PyObject *payload)
{
    if (writer_need(w, 2) < 0)
        return -1;
    *w->p++ = 'p';
    *w->p++ = TAG_VERSION;
    if (encode_term(options, w, control) < 0)
        return -1;
    if (payload == options->state->no_payload)
        return 0;
    if (writer_need(w, 1) < 0)
        return -1;
    *w->p++ = TAG_VERSION;
    return encode_term(options, w, payload);
}

PyObject *encode_bytes(EncodeOptions *options, PyObject *term, PyObject *list)
{
    BytesWriter b;
    Holes holes = {NULL, NULL, 0, 0};
    PyObject *result = NULL;
    options->holes = &holes;
    bytes_writer_init(&b, list);
    *b.w.p++ = TAG_VERSION;
    int collecting = PyGC_Disable();
    int bad = encode_term(options, &b.w, term);
    if (collecting)
        PyGC_Enable();
    if (bad == 0 && options->crossing != NULL)
        bad = holes_fill(options->crossing, &holes, &b);
    if (bad < 0)
        bytes_writer_drop(&b);
    else if (list == NULL)
        result = bytes_writer_finish(&b);
    else if (b.w.p == b.w.base || append_new(list, bytes_writer_finish(&b)) == 0)
        result = Py_NewRef(list);
    holes_drop(&holes);
    return result;
}

static PyObject *encode_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, int pieces)
{
    State *state = state_of(module);
    EncodeOptions options;
    PyObject *list = NULL, *result = NULL;
    if (state_ready(state) < 0)
        return NULL;
    if (nargs != 1) {
        PyErr_SetString(PyExc_TypeError, "one positional argument is needed: term");
        return NULL;
    }
    if (parse_options(state, &options, args + nargs, kwnames, pieces ? FOR_PIECES : FOR_BYTES) < 0)
        return NULL;
    if (!pieces || (list = PyList_New(0)) != NULL)
        result = encode_bytes(&options, args[0], list);
    Py_XDECREF(list);
    Py_DECREF(options.none);
    return result;
}

PyObject *etf_encode(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return encode_call(module, args, nargs, kwnames, 0);
}

PyObject *etf_encode_pieces(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return encode_call(module, args, nargs, kwnames, 1);
}

PyObject *etf_encode_frame(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    State *state = state_of(module);
    EncodeOptions options;
    BytesWriter b;
    PyObject *list = NULL, *result = NULL, *first;
    if (state_ready(state) < 0)
        return NULL;
    if (nargs < 1 || nargs > 2) {
        PyErr_SetString(PyExc_TypeError, "one or two positional arguments are needed: control, payload");
        return NULL;
    }
    if (parse_options(state, &options, args + nargs, kwnames, FOR_FRAME) < 0)
        return NULL;
    if ((list = PyList_New(0)) == NULL)
        goto done;
    bytes_writer_init(&b, list);
    b.w.p += 4; /* the length, known at the end */
    int collecting = PyGC_Disable();
    int bad = encode_frame_body(&options, &b.w, args[0], nargs == 2 ? args[1] : state->no_payload);
    if (collecting)
        PyGC_Enable();
    uint64_t size = writer_position(&b.w) - 4;
    if (bad == 0 && size > UINT32_MAX) {
        bad = too_big(state);
    }
    if (bad < 0) {
        bytes_writer_drop(&b);
        goto done;
    }
    if (b.w.p > b.w.base && append_new(list, bytes_writer_finish(&b)) < 0)
        goto done;
    first = PyList_GET_ITEM(list, 0); /* nobody else has seen it yet */
    put32((uint8_t *)PyBytes_AS_STRING(first), (uint32_t)size);
    result = Py_NewRef(list);
done:
    Py_XDECREF(list);
    Py_DECREF(options.none);
    return result;
}
