/* FrameReader: the read side of one connection after the handshake.
 *
 * Bytes are received straight into a block; every complete frame in it is decoded in one call. An unfinished frame
 * stays where it is while there is room, else it moves to the front or into a larger block: at most twice as large as
 * what has arrived, so that an announced length alone costs nothing.
 */
#include "etf.h"

#define FIRST_ROOM (64 << 10)
#define KEPT_ROOM (4 << 20)  /* a larger block goes when it is empty */

typedef struct {
    PyObject_HEAD
    State *state;
    PyObject *module;
    Block *block;       /* or NULL before the first read */
    size_t start, fill; /* what is held of an unfinished frame */
    size_t offered;     /* bytes in the last view that was handed out */
    uint64_t max_frame;
    Py_ssize_t max_depth;
    unsigned quiet;     /* reads in a row that a much smaller block would have taken */
    PyObject *error;
} FrameReader;

static uint64_t announced(const FrameReader *self) /* bytes of the frame at start, with its length; 0: not known yet */
{
    return self->fill - self->start < 4 ? 0 : (uint64_t)get32(self->block->data + self->start) + 4;
}

/* Room for at least `room` more bytes behind fill. */
static int make_room(FrameReader *self, size_t room)
{
    size_t have = self->fill - self->start;
    Block *block = self->block;
    if (block != NULL && have == 0) {
        self->start = self->fill = 0;
        if (block->capacity > KEPT_ROOM || (self->quiet > 64 && block->capacity > 4 * room))
            Py_CLEAR(self->block);
        block = self->block;
    }
    if (block != NULL && block->capacity - self->fill >= room)
        return 0;
    if (block != NULL && self->start >= have && block->capacity - have >= room) {
        memcpy(block->data, block->data + self->start, have); /* start >= have: no overlap, and amortised */
        self->start = 0;
        self->fill = have;
        return 0;
    }
    size_t capacity = have + room;
    uint64_t frame = have == 0 ? 0 : announced(self);
    if (frame > 2 * (uint64_t)have)
        frame = 2 * (uint64_t)have;
    if (capacity < frame)
        capacity = (size_t)frame;
    Block *more = block_new(self->state, capacity);
    if (more == NULL)
        return -1;
    if (have > 0)
        memcpy(more->data, block->data + self->start, have);
    Py_XSETREF(self->block, more);
    self->start = 0;
    self->fill = have;
    self->quiet = 0;
    return 0;
}

static PyObject *reader_get_buffer(FrameReader *self, PyObject *const *args, Py_ssize_t nargs)
{
    size_t room = FIRST_ROOM;
    if (nargs > 1) {
        PyErr_SetString(PyExc_TypeError, "get_buffer takes one hint");
        return NULL;
    }
    if (nargs == 1) {
        Py_ssize_t hint = PyLong_AsSsize_t(args[0]);
        if (hint == -1 && PyErr_Occurred())
            return NULL;
        if (hint > FIRST_ROOM)
            room = (size_t)hint;
    }
    if (make_room(self, room) < 0)
        return NULL;
    self->offered = self->block->capacity - self->fill;
    return piece_view(self->state, (PyObject *)self->block, self->block->data + self->fill, self->offered, 1);
}

static PyObject *break_stream(FrameReader *self, PyObject *batch, const char *reason)
{
    self->error = PyObject_CallFunction(self->state->decode_error, "sn", reason, (Py_ssize_t)0);
    if (self->error == NULL) {
        Py_DECREF(batch);
        return NULL;
    }
    return batch;
}

/* One frame's bytes, after the length, as (control, payload) at the end of batch. 0; 1: the stream is broken
 * (self->error is set); -1: exception. */
static int decode_frame(FrameReader *self, const uint8_t *frame, size_t length, PyObject *batch)
{
    State *state = self->state;
    Decoder d = {.state = state, .start = frame, .end = frame + length, .max_depth = self->max_depth};
    const uint8_t *p = frame;
    PyObject *control = NULL, *payload;
    if (*p != 'p') {
        d.error = "a frame of an unknown type";
        d.error_at = p;
        goto broken;
    }
    p++;
    if (p == d.end || *p != TAG_VERSION) {
        d.error = "a control message begins with 131";
        d.error_at = p;
        goto broken;
    }
    p++;
    if ((control = decode_term(&d, &p)) == NULL) {
        if (d.error == NULL)
            return -1;
        goto broken;
    }
    if (!PyTuple_CheckExact(control)) {
        d.error = "a control message is a tuple";
        d.error_at = frame + 2;
        goto broken;
    }
    if (p == d.end) {
        payload = Py_NewRef(state->no_payload);
    } else {
        if (*p != TAG_VERSION) {
            d.error = "a message begins with 131";
            d.error_at = p;
            payload = NULL;
        } else {
            p++;
            payload = decode_term(&d, &p);
            if (payload != NULL && p != d.end) {
                Py_CLEAR(payload);
                d.error = "data after the message";
                d.error_at = p;
            }
        }
        if (payload == NULL && (d.error == NULL || (payload = decode_error_new(&d)) == NULL)) {
            Py_DECREF(control);
            return -1;
        }
    }
    PyObject *entry = PyTuple_New(2);
    if (entry == NULL) {
        Py_DECREF(control);
        Py_DECREF(payload);
        return -1;
    }
    PyTuple_SET_ITEM(entry, 0, control);
    PyTuple_SET_ITEM(entry, 1, payload);
    int bad = PyList_Append(batch, entry);
    Py_DECREF(entry);
    return bad;
broken:
    Py_XDECREF(control);
    self->error = decode_error_new(&d);
    return self->error == NULL ? -1 : 1;
}

static PyObject *take(FrameReader *self, size_t n)
{
    if (self->error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(self->error), self->error);
        return NULL;
    }
    if (n > self->offered) {
        PyErr_SetString(PyExc_ValueError, "more bytes than the buffer had room for");
        return NULL;
    }
    PyObject *batch = PyList_New(0);
    if (batch == NULL)
        return NULL;
    self->offered = 0;
    self->fill += n;
    size_t peak = self->fill;
    int collecting = PyGC_Disable();
    int state = 0;
    while (state == 0 && self->fill - self->start >= 4) {
        uint64_t length = get32(self->block->data + self->start);
        if (length > self->max_frame) {
            batch = break_stream(self, batch, "a frame larger than max_frame");
            break;
        }
        if (self->fill - self->start - 4 < length)
            break;
        const uint8_t *frame = self->block->data + self->start + 4;
        self->start += 4 + (size_t)length;
        if (length > 0)
            state = decode_frame(self, frame, (size_t)length, batch);
    }
    if (collecting)
        PyGC_Enable();
    if (state < 0 && batch != NULL)
        Py_CLEAR(batch);
    if (self->start == self->fill) {
        self->start = self->fill = 0;
        self->quiet = self->block != NULL && peak < self->block->capacity / 8 ? self->quiet + 1 : 0;
    }
    if (batch != NULL && self->error != NULL && PyList_GET_SIZE(batch) == 0) {
        /* nothing was complete before: no need to wait for the next call */
        Py_DECREF(batch);
        PyErr_SetObject((PyObject *)Py_TYPE(self->error), self->error);
        return NULL;
    }
    return batch;
}

static PyObject *reader_received(FrameReader *self, PyObject *arg)
{
    Py_ssize_t n = PyLong_AsSsize_t(arg);
    if (n < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "a count of bytes, 0 or more, is needed");
        return NULL;
    }
    return take(self, (size_t)n);
}

static PyObject *reader_feed(FrameReader *self, PyObject *data)
{
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *batch = NULL;
    if (make_room(self, view.len > 0 ? (size_t)view.len : 1) == 0) {
        if (view.len > 0)
            memcpy(self->block->data + self->fill, view.buf, (size_t)view.len);
        self->offered = (size_t)view.len;
        batch = take(self, (size_t)view.len);
    }
    PyBuffer_Release(&view);
    return batch;
}

static PyObject *reader_get_pending(FrameReader *self, void *Py_UNUSED(unused))
{
    return PyLong_FromSize_t(self->fill - self->start);
}

static PyObject *reader_get_error(FrameReader *self, void *Py_UNUSED(unused))
{
    return Py_NewRef(self->error == NULL ? Py_None : self->error);
}

static PyObject *reader_get_room(FrameReader *self, void *Py_UNUSED(unused))
{
    return PyLong_FromSize_t(self->block == NULL ? 0 : self->block->capacity);
}

static PyObject *reader_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"max_frame", "max_depth", NULL};
    Py_ssize_t max_frame = MAX_FRAME, max_depth = MAX_DEPTH;
    State *state = state_of_type(type);
    if (state == NULL || state_ready(state) < 0 ||
        !PyArg_ParseTupleAndKeywords(args, kwargs, "|nn:FrameReader", names, &max_frame, &max_depth))
        return NULL;
    if (max_frame < 1 || max_depth < 0) {
        PyErr_SetString(PyExc_ValueError, "max_frame and max_depth must be positive");
        return NULL;
    }
    FrameReader *self = (FrameReader *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->state = state;
    self->module = Py_NewRef(state->module);
    self->max_frame = (uint64_t)max_frame;
    self->max_depth = max_depth;
    return (PyObject *)self;
}

static int reader_traverse(FrameReader *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->module);
    Py_VISIT(self->error);
    return 0;
}

static int reader_clear(FrameReader *self)
{
    Py_CLEAR(self->error);
    return 0;
}

static void reader_dealloc(FrameReader *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->error);
    Py_XDECREF(self->block);
    Py_XDECREF(self->module);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef reader_methods[] = {
    {"get_buffer", (PyCFunction)(void (*)(void))reader_get_buffer, METH_FASTCALL,
     "get_buffer($self, hint=0, /)\n--\n\nA writable view for recv_into, of at least hint bytes."},
    {"received", (PyCFunction)reader_received, METH_O,
     "received($self, n, /)\n--\n\nn bytes were put into the last buffer: all complete frames, as a list of "
     "(control, payload)."},
    {"feed", (PyCFunction)reader_feed, METH_O, "feed($self, data, /)\n--\n\nThe same with bytes that are copied in."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef reader_getset[] = {
    {"pending", (getter)reader_get_pending, NULL, "Bytes held of an unfinished frame.", NULL},
    {"error", (getter)reader_get_error, NULL, "The DecodeError that broke the stream, or None.", NULL},
    {"room", (getter)reader_get_room, NULL, "Bytes of memory held for reading.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(reader_doc, "FrameReader(max_frame=2**31, max_depth=MAX_DEPTH)\n--\n\nThe read side of one connection: bytes in, "
                         "control messages and payloads out.");

static PyType_Slot reader_slots[] = {
    {Py_tp_doc, (void *)reader_doc},   {Py_tp_new, reader_new},         {Py_tp_dealloc, reader_dealloc},
    {Py_tp_traverse, reader_traverse}, {Py_tp_clear, reader_clear},     {Py_tp_methods, reader_methods},
    {Py_tp_getset, reader_getset},     {0, NULL},
};

PyType_Spec reader_spec = {
    .name = "node._etf.FrameReader",
    .basicsize = sizeof(FrameReader),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = reader_slots,
};
