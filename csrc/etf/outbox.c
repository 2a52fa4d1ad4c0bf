/* Outbox: the write side of one connection after the handshake.
 *
 * Frames are encoded one behind the other into blocks that never move, so the views that buffers() handed out stay
 * valid; large binaries stand between as the caller's own bytes objects. What is queued is a ring of segments; the
 * ends of frames are a ring of byte positions, so that frames on their way can be counted.
 */
#include "etf.h"

#define FIRST_BLOCK (4 << 10)
#define FULL_BLOCK (64 << 10)

typedef struct {
    PyObject *owner; /* Block or bytes, strong */
    uint8_t *data;
    size_t length;
} Segment;

typedef struct {
    PyObject_HEAD
    Writer w;
    State *state;
    PyObject *module;
    Atom *none;
    Block *block;       /* the one that is being filled, or NULL */
    Segment *segments;  /* ring */
    size_t first, count, room;
    uint64_t *ends;     /* ring: positions where frames end */
    size_t ends_first, ends_count, ends_room;
    uint64_t sent;      /* bytes written, in all */
    uint64_t queued;    /* bytes encoded, in all; up to the last whole frame */
} Outbox;

#define OUTBOX(writer) ((Outbox *)((char *)(writer) - offsetof(Outbox, w)))

static inline Segment *segment_at(Outbox *self, size_t i)
{
    return &self->segments[(self->first + i) & (self->room - 1)];
}

static int reserve_segment(Outbox *self)
{
    if (self->count < self->room)
        return 0;
    size_t room = self->room == 0 ? 8 : self->room * 2;
    Segment *more = PyMem_Malloc(room * sizeof(Segment));
    if (more == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < self->count; i++)
        more[i] = *segment_at(self, i);
    PyMem_Free(self->segments);
    self->segments = more;
    self->first = 0;
    self->room = room;
    return 0;
}

static int add_end(Outbox *self, uint64_t end)
{
    if (self->ends_count == self->ends_room) {
        size_t room = self->ends_room == 0 ? 64 : self->ends_room * 2;
        uint64_t *more = PyMem_Malloc(room * sizeof(uint64_t));
        if (more == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        for (size_t i = 0; i < self->ends_count; i++)
            more[i] = self->ends[(self->ends_first + i) & (self->ends_room - 1)];
        PyMem_Free(self->ends);
        self->ends = more;
        self->ends_first = 0;
        self->ends_room = room;
    }
    self->ends[(self->ends_first + self->ends_count++) & (self->ends_room - 1)] = end;
    return 0;
}

/* What was written into the block since base becomes (part of) the last segment. */
static int settle(Outbox *self)
{
    size_t length = (size_t)(self->w.p - self->w.base);
    if (length == 0)
        return 0;
    if (self->count > 0) {
        Segment *last = segment_at(self, self->count - 1);
        if (last->owner == (PyObject *)self->block && last->data + last->length == self->w.base) {
            last->length += length;
            goto done;
        }
    }
    if (reserve_segment(self) < 0)
        return -1;
    *segment_at(self, self->count++) = (Segment){Py_NewRef(self->block), self->w.base, length};
done:
    self->w.before += length;
    self->w.base = self->w.p;
    return 0;
}

static int outbox_grow(Writer *w, size_t need)
{
    Outbox *self = OUTBOX(w);
    if (settle(self) < 0)
        return -1;
    size_t capacity = self->block == NULL ? FIRST_BLOCK : FULL_BLOCK;
    Block *block = block_new(self->state, need > capacity ? need : capacity);
    if (block == NULL)
        return -1;
    Py_XSETREF(self->block, block);
    w->base = w->p = block->data;
    w->end = block->data + block->capacity;
    return 0;
}

static int outbox_pass(Writer *w, PyObject *big_bytes)
{
    Outbox *self = OUTBOX(w);
    if (settle(self) < 0 || reserve_segment(self) < 0)
        return -1;
    *segment_at(self, self->count++) = (Segment){Py_NewRef(big_bytes), (uint8_t *)PyBytes_AS_STRING(big_bytes),
                                                 (size_t)PyBytes_GET_SIZE(big_bytes)};
    w->before += (uint64_t)PyBytes_GET_SIZE(big_bytes);
    return 0;
}

static PyObject *outbox_size(Outbox *self)
{
    return PyLong_FromUnsignedLongLong(self->queued - self->sent);
}

/* Everything behind position `queued` goes away again: a frame that could not be encoded to its end. */
static void roll_back(Outbox *self)
{
    Writer *w = &self->w;
    w->p = w->base; /* not settled yet */
    uint64_t extra = w->before - self->queued;
    while (extra > 0) {
        Segment *last = segment_at(self, self->count - 1);
        size_t cut = last->length < extra ? last->length : (size_t)extra;
        if (last->owner == (PyObject *)self->block && last->data + last->length == w->p) {
            w->p -= cut; /* its room is free again: nobody was shown it */
            w->base = w->p;
        }
        last->length -= cut;
        extra -= cut;
        if (last->length == 0) {
            Py_DECREF(last->owner);
            self->count--;
        }
    }
    w->before = self->queued;
}

static PyObject *outbox_send(Outbox *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 2) {
        PyErr_SetString(PyExc_TypeError, "send takes control and payload");
        return NULL;
    }
    EncodeOptions options = {.state = self->state, .none = self->none};
    Writer *w = &self->w;
    /* a frame of an empty outbox begins at the block's start again when no view can see it */
    if (self->count == 0 && self->block != NULL && Py_REFCNT(self->block) == 1 && w->p == w->base) {
        w->base = w->p = self->block->data;
        w->end = w->p + self->block->capacity;
    }
    if (writer_need(w, 64) < 0)
        return NULL;
    uint8_t *head = w->p; /* blocks don't move */
    w->p += 4;
    int collecting = PyGC_Disable();
    int bad = encode_frame_body(&options, w, args[0], nargs == 2 ? args[1] : self->state->no_payload);
    if (collecting)
        PyGC_Enable();
    if (bad == 0) {
        uint64_t size = writer_position(w) - self->queued - 4;
        if (size > UINT32_MAX) {
            bad = too_big(self->state);
        } else {
            put32(head, (uint32_t)size);
            bad = settle(self) < 0 || add_end(self, w->before) < 0 ? -1 : 0;
        }
    }
    if (bad < 0) {
        roll_back(self);
        return NULL;
    }
    self->queued = w->before;
    return outbox_size(self);
}

static int put_raw(Outbox *self, const char *data, size_t length)
{
    while (length > 0) {
        if (self->w.p == self->w.end && outbox_grow(&self->w, 1) < 0)
            return -1;
        size_t part = (size_t)(self->w.end - self->w.p);
        if (part > length)
            part = length;
        memcpy(self->w.p, data, part);
        self->w.p += part;
        data += part;
        length -= part;
    }
    return 0;
}

static PyObject *outbox_append(Outbox *self, PyObject *pieces)
{
    if (!PyList_Check(pieces)) {
        PyErr_SetString(PyExc_TypeError, "append takes the list of bytes that encode_frame made");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(pieces); i++) {
        PyObject *piece = PyList_GET_ITEM(pieces, i);
        int bad = -1;
        if (!PyBytes_Check(piece))
            PyErr_SetString(PyExc_TypeError, "append takes the list of bytes that encode_frame made");
        else if (PyBytes_GET_SIZE(piece) >= BIG_BINARY)
            bad = outbox_pass(&self->w, piece);
        else
            bad = put_raw(self, PyBytes_AS_STRING(piece), (size_t)PyBytes_GET_SIZE(piece));
        if (bad < 0)
            goto failed;
    }
    if (settle(self) < 0 || add_end(self, self->w.before) < 0)
        goto failed;
    self->queued = self->w.before;
    return outbox_size(self);
failed:
    roll_back(self);
    return NULL;
}

static PyObject *outbox_tick(Outbox *self, PyObject *Py_UNUSED(unused))
{
    if (put_raw(self, "\0\0\0\0", 4) < 0 || settle(self) < 0) {
        roll_back(self);
        return NULL;
    }
    self->queued = self->w.before;
    return outbox_size(self);
}

static PyObject *outbox_buffers(Outbox *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"limit", NULL};
    Py_ssize_t limit = 64;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|n:buffers", names, &limit))
        return NULL;
    size_t n = limit < 0 ? 0 : (size_t)limit < self->count ? (size_t)limit : self->count;
    PyObject *list = PyList_New((Py_ssize_t)n);
    for (size_t i = 0; list != NULL && i < n; i++) {
        Segment *segment = segment_at(self, i);
        PyObject *owner = segment->owner, *item;
        if (PyBytes_CheckExact(owner) && segment->length == (size_t)PyBytes_GET_SIZE(owner))
            item = Py_NewRef(owner);
        else
            item = piece_view(self->state, owner, segment->data, segment->length, 0);
        if (item == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, item);
    }
    return list;
}

static PyObject *outbox_sent(Outbox *self, PyObject *arg)
{
    unsigned long long n = PyLong_AsUnsignedLongLong(arg);
    if (n == (unsigned long long)-1 && PyErr_Occurred())
        return NULL;
    if (n > self->queued - self->sent) {
        PyErr_SetString(PyExc_ValueError, "more bytes were sent than waited");
        return NULL;
    }
    self->sent += n;
    while (n > 0) {
        Segment *segment = segment_at(self, 0);
        size_t part = segment->length < n ? segment->length : (size_t)n;
        segment->data += part;
        segment->length -= part;
        n -= part;
        if (segment->length == 0) {
            PyObject *owner = segment->owner;
            self->first = (self->first + 1) & (self->room - 1);
            self->count--;
            Py_DECREF(owner);
        }
    }
    while (self->ends_count > 0 && self->ends[self->ends_first] <= self->sent) {
        self->ends_first = (self->ends_first + 1) & (self->ends_room - 1);
        self->ends_count--;
    }
    Py_RETURN_NONE;
}

static PyObject *outbox_get_size(Outbox *self, void *Py_UNUSED(unused))
{
    return outbox_size(self);
}

static PyObject *outbox_get_frames(Outbox *self, void *Py_UNUSED(unused))
{
    return PyLong_FromSize_t(self->ends_count);
}

static PyObject *outbox_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"none", NULL};
    PyObject *none = NULL;
    State *state = state_of_type(type);
    if (state == NULL || state_ready(state) < 0 ||
        !PyArg_ParseTupleAndKeywords(args, kwargs, "|$O:Outbox", names, &none))
        return NULL;
    Atom *atom = none == NULL ? (Atom *)Py_NewRef(state->undefined) : none_argument(state, none);
    if (atom == NULL)
        return NULL;
    Outbox *self = (Outbox *)type->tp_alloc(type, 0);
    if (self == NULL) {
        Py_DECREF(atom);
        return NULL;
    }
    self->state = state;
    self->module = Py_NewRef(state->module);
    self->none = atom;
    self->w.grow = outbox_grow;
    self->w.pass = outbox_pass;
    return (PyObject *)self;
}

static int outbox_traverse(Outbox *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->module);
    return 0;
}

static void outbox_dealloc(Outbox *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    for (size_t i = 0; i < self->count; i++)
        Py_DECREF(segment_at(self, i)->owner);
    PyMem_Free(self->segments);
    PyMem_Free(self->ends);
    Py_XDECREF(self->block);
    Py_XDECREF(self->none);
    Py_XDECREF(self->module);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef outbox_methods[] = {
    {"send", (PyCFunction)(void (*)(void))outbox_send, METH_FASTCALL,
     "send($self, control, payload=NO_PAYLOAD, /)\n--\n\nEncode one frame at the end; bytes now waiting. EncodeError "
     "leaves everything as it was."},
    {"append", (PyCFunction)outbox_append, METH_O,
     "append($self, pieces, /)\n--\n\nQueue a frame that encode_frame made; bytes now waiting."},
    {"tick", (PyCFunction)outbox_tick, METH_NOARGS, "tick($self, /)\n--\n\nQueue an empty frame; bytes now waiting."},
    {"buffers", (PyCFunction)(void (*)(void))outbox_buffers, METH_VARARGS | METH_KEYWORDS,
     "buffers($self, /, limit=64)\n--\n\nWhat is to be written next, for sendmsg: at most limit pieces, not copied."},
    {"sent", (PyCFunction)outbox_sent, METH_O, "sent($self, n, /)\n--\n\nn bytes were written."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef outbox_getset[] = {
    {"size", (getter)outbox_get_size, NULL, "Bytes waiting.", NULL},
    {"frames", (getter)outbox_get_frames, NULL, "Frames not wholly written; ticks are not counted.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(outbox_doc, "Outbox(*, none='undefined')\n--\n\nThe write side of one connection: frames in, buffers out.");

static PyType_Slot outbox_slots[] = {
    {Py_tp_doc, (void *)outbox_doc},       {Py_tp_new, outbox_new},         {Py_tp_dealloc, outbox_dealloc},
    {Py_tp_traverse, outbox_traverse},     {Py_tp_methods, outbox_methods}, {Py_tp_getset, outbox_getset},
    {0, NULL},
};

PyType_Spec outbox_spec = {
    .name = "node._etf.Outbox",
    .basicsize = sizeof(Outbox),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = outbox_slots,
};
