/* Block: a piece of memory with a reference count. Piece: a window on something, for a memoryview.
 *
 * Views that were handed out keep their block alive, so reader and outbox may drop or replace theirs at any time.
 * A block never moves.
 */
#include "etf.h"

typedef struct {
    PyObject_HEAD
    PyObject *owner;
    uint8_t *data;
    Py_ssize_t length;
    int writable;
} Piece;

Block *block_new(State *state, size_t capacity)
{
    Block *self = PyObject_New(Block, state->block_type);
    if (self == NULL)
        return NULL;
    self->capacity = capacity;
    self->used = 0;
    self->data = PyMem_Malloc(capacity);
    if (self->data == NULL) {
        Py_DECREF(self);
        PyErr_NoMemory();
        return NULL;
    }
    return self;
}

static void block_dealloc(Block *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyMem_Free(self->data);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyType_Slot block_slots[] = {
    {Py_tp_dealloc, block_dealloc},
    {0, NULL},
};

PyType_Spec block_spec = {
    .name = "node._etf.Block",
    .basicsize = sizeof(Block),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = block_slots,
};

PyObject *piece_view(State *state, PyObject *owner, uint8_t *data, size_t length, int writable)
{
    Piece *self = PyObject_New(Piece, state->piece_type);
    if (self == NULL)
        return NULL;
    self->owner = Py_NewRef(owner);
    self->data = data;
    self->length = (Py_ssize_t)length;
    self->writable = writable;
    PyObject *view = PyMemoryView_FromObject((PyObject *)self);
    Py_DECREF(self);
    return view;
}

static int piece_getbuffer(Piece *self, Py_buffer *view, int flags)
{
    return PyBuffer_FillInfo(view, (PyObject *)self, self->data, self->length, !self->writable, flags);
}

static void piece_dealloc(Piece *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_DECREF(self->owner);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyType_Slot piece_slots[] = {
    {Py_tp_dealloc, piece_dealloc},
    {Py_bf_getbuffer, piece_getbuffer},
    {0, NULL},
};

PyType_Spec piece_spec = {
    .name = "node._etf.Piece",
    .basicsize = sizeof(Piece),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = piece_slots,
};
