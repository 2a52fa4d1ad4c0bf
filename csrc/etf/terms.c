/* Pid, Port and Reference: small, immutable, hashable, compared by value.
 *
 * They hold no containers, so the cycle collector need not know them.
 */
#include "etf.h"

static inline Py_hash_t finish_hash(uint64_t a, uint64_t b, Atom *node)
{
    uint64_t h = (a ^ (uint64_t)(uintptr_t)node >> 4) * 0x9E3779B97F4A7C15u;
    h = (h ^ h >> 32 ^ b) * 0xD6E8FEB86659FD93u;
    h ^= h >> 32;
    return (Py_hash_t)h == -1 ? -2 : (Py_hash_t)h;
}

static Atom *node_argument(State *state, PyObject *node)
{
    if (!Py_IS_TYPE(node, state->atom_type)) {
        PyErr_Format(PyExc_TypeError, "node must be an Atom, not %.100s", Py_TYPE(node)->tp_name);
        return NULL;
    }
    return (Atom *)Py_NewRef(node);
}

static int word_argument(PyObject *value, const char *name, uint64_t limit, uint64_t *word)
{
    if (!PyLong_Check(value)) {
        PyErr_Format(PyExc_TypeError, "%s must be an int, not %.100s", name, Py_TYPE(value)->tp_name);
        return -1;
    }
    *word = PyLong_AsUnsignedLongLong(value);
    if ((*word == (uint64_t)-1 && PyErr_Occurred()) || *word > limit) {
        PyErr_Format(PyExc_ValueError, "%s is out of range", name);
        return -1;
    }
    return 0;
}

static void node_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_DECREF(((Pid *)self)->node); /* node stands first in all three */
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *same(PyObject *self, PyObject *Py_UNUSED(memo))
{
    return Py_NewRef(self);
}

/* ---- Pid ---- */

PyObject *pid_new(State *state, Atom *node, uint32_t id, uint32_t serial, uint32_t creation)
{
    Pid *self = PyObject_New(Pid, state->pid_type);
    if (self == NULL) {
        Py_DECREF(node);
        return NULL;
    }
    self->node = node;
    self->id = id;
    self->serial = serial;
    self->creation = creation;
    return (PyObject *)self;
}

static PyObject *pid_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"node", "id", "serial", "creation", NULL};
    PyObject *node, *id, *serial, *creation;
    uint64_t i, s, c;
    State *state = state_of_type(type);
    Atom *atom;
    if (state == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "OOOO:Pid", names, &node, &id, &serial, &creation) ||
        word_argument(id, "id", UINT32_MAX, &i) < 0 || word_argument(serial, "serial", UINT32_MAX, &s) < 0 ||
        word_argument(creation, "creation", UINT32_MAX, &c) < 0 || (atom = node_argument(state, node)) == NULL)
        return NULL;
    return pid_new(state, atom, (uint32_t)i, (uint32_t)s, (uint32_t)c);
}

static Py_hash_t pid_hash(Pid *self)
{
    return finish_hash((uint64_t)self->id << 32 | self->serial, self->creation, self->node);
}

static PyObject *pid_compare(PyObject *self, PyObject *other, int op)
{
    if (!Py_IS_TYPE(other, Py_TYPE(self)) || (op != Py_EQ && op != Py_NE))
        Py_RETURN_NOTIMPLEMENTED;
    Pid *a = (Pid *)self, *b = (Pid *)other;
    int equal = a->id == b->id && a->serial == b->serial && a->creation == b->creation && a->node == b->node;
    return PyBool_FromLong(equal == (op == Py_EQ));
}

static PyObject *pid_repr(Pid *self)
{
    return PyUnicode_FromFormat("Pid(node=%R, id=%u, serial=%u, creation=%u)", self->node, self->id, self->serial,
                                self->creation);
}

static PyObject *pid_reduce(Pid *self, PyObject *Py_UNUSED(unused))
{
    return Py_BuildValue("O(OIII)", Py_TYPE(self), self->node, self->id, self->serial, self->creation);
}

static PyMethodDef pid_methods[] = {
    {"__reduce__", (PyCFunction)pid_reduce, METH_NOARGS, NULL},
    {"__copy__", (PyCFunction)same, METH_NOARGS, NULL},
    {"__deepcopy__", (PyCFunction)same, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef pid_members[] = {
    {"node", T_OBJECT_EX, offsetof(Pid, node), READONLY, "The node, an Atom."},
    {"id", T_UINT, offsetof(Pid, id), READONLY, "32 bits."},
    {"serial", T_UINT, offsetof(Pid, serial), READONLY, "32 bits."},
    {"creation", T_UINT, offsetof(Pid, creation), READONLY, "The node's incarnation, 32 bits."},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(pid_doc, "Pid(node, id, serial, creation)\n--\n\nA process of a node (erl_ext_dist, NEW_PID_EXT).");

static PyType_Slot pid_slots[] = {
    {Py_tp_doc, (void *)pid_doc},        {Py_tp_new, pid_tp_new},          {Py_tp_dealloc, node_dealloc},
    {Py_tp_hash, pid_hash},              {Py_tp_richcompare, pid_compare}, {Py_tp_repr, pid_repr},
    {Py_tp_methods, pid_methods},        {Py_tp_members, pid_members},     {0, NULL},
};

PyType_Spec pid_spec = {
    .name = "node.terms.Pid",
    .basicsize = sizeof(Pid),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = pid_slots,
};

/* ---- Port ---- */

PyObject *port_new(State *state, Atom *node, uint64_t id, uint32_t creation)
{
    Port *self = PyObject_New(Port, state->port_type);
    if (self == NULL) {
        Py_DECREF(node);
        return NULL;
    }
    self->node = node;
    self->id = id;
    self->creation = creation;
    return (PyObject *)self;
}

static PyObject *port_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"node", "id", "creation", NULL};
    PyObject *node, *id, *creation;
    uint64_t i, c;
    State *state = state_of_type(type);
    Atom *atom;
    if (state == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "OOO:Port", names, &node, &id, &creation) ||
        word_argument(id, "id", UINT64_MAX, &i) < 0 || word_argument(creation, "creation", UINT32_MAX, &c) < 0 ||
        (atom = node_argument(state, node)) == NULL)
        return NULL;
    return port_new(state, atom, i, (uint32_t)c);
}

static Py_hash_t port_hash(Port *self)
{
    return finish_hash(self->id, (uint64_t)self->creation << 32 | 1, self->node);
}

static PyObject *port_compare(PyObject *self, PyObject *other, int op)
{
    if (!Py_IS_TYPE(other, Py_TYPE(self)) || (op != Py_EQ && op != Py_NE))
        Py_RETURN_NOTIMPLEMENTED;
    Port *a = (Port *)self, *b = (Port *)other;
    int equal = a->id == b->id && a->creation == b->creation && a->node == b->node;
    return PyBool_FromLong(equal == (op == Py_EQ));
}

static PyObject *port_repr(Port *self)
{
    return PyUnicode_FromFormat("Port(node=%R, id=%llu, creation=%u)", self->node, (unsigned long long)self->id,
                                self->creation);
}

static PyObject *port_reduce(Port *self, PyObject *Py_UNUSED(unused))
{
    return Py_BuildValue("O(OKI)", Py_TYPE(self), self->node, (unsigned long long)self->id, self->creation);
}

static PyMethodDef port_methods[] = {
    {"__reduce__", (PyCFunction)port_reduce, METH_NOARGS, NULL},
    {"__copy__", (PyCFunction)same, METH_NOARGS, NULL},
    {"__deepcopy__", (PyCFunction)same, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef port_members[] = {
    {"node", T_OBJECT_EX, offsetof(Port, node), READONLY, "The node, an Atom."},
    {"id", T_ULONGLONG, offsetof(Port, id), READONLY, "64 bits."},
    {"creation", T_UINT, offsetof(Port, creation), READONLY, "The node's incarnation, 32 bits."},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(port_doc, "Port(node, id, creation)\n--\n\nA port of a node (erl_ext_dist, V4_PORT_EXT).");

static PyType_Slot port_slots[] = {
    {Py_tp_doc, (void *)port_doc},       {Py_tp_new, port_tp_new},          {Py_tp_dealloc, node_dealloc},
    {Py_tp_hash, port_hash},             {Py_tp_richcompare, port_compare}, {Py_tp_repr, port_repr},
    {Py_tp_methods, port_methods},       {Py_tp_members, port_members},     {0, NULL},
};

PyType_Spec port_spec = {
    .name = "node.terms.Port",
    .basicsize = sizeof(Port),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = port_slots,
};

/* ---- Reference ---- */

Reference *reference_new(State *state, Atom *node, uint32_t creation, uint32_t count)
{
    Reference *self = PyObject_New(Reference, state->reference_type);
    if (self == NULL) {
        Py_DECREF(node);
        return NULL;
    }
    self->node = node;
    self->creation = creation;
    self->count = count;
    memset(self->ids, 0, sizeof self->ids);
    return self;
}

static PyObject *reference_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"node", "creation", "ids", NULL};
    PyObject *node, *creation, *ids;
    uint64_t c, word;
    State *state = state_of_type(type);
    if (state == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "OOO!:Reference", names, &node, &creation,
                                                      &PyTuple_Type, &ids) ||
        word_argument(creation, "creation", UINT32_MAX, &c) < 0)
        return NULL;
    Py_ssize_t count = PyTuple_GET_SIZE(ids);
    if (count < 1 || count > MAX_REF_WORDS) {
        PyErr_Format(PyExc_ValueError, "a reference has 1 to %d words", MAX_REF_WORDS);
        return NULL;
    }
    Atom *atom = node_argument(state, node);
    Reference *self = atom == NULL ? NULL : reference_new(state, atom, (uint32_t)c, (uint32_t)count);
    for (Py_ssize_t i = 0; self != NULL && i < count; i++) {
        if (word_argument(PyTuple_GET_ITEM(ids, i), "a word", UINT32_MAX, &word) < 0)
            Py_CLEAR(self);
        else
            self->ids[i] = (uint32_t)word;
    }
    return (PyObject *)self;
}

static Py_hash_t reference_hash(Reference *self)
{
    uint64_t a = (uint64_t)self->ids[0] << 32 | self->ids[1];
    uint64_t b = ((uint64_t)self->ids[2] << 32 | self->ids[3]) * 0xA0761D6478BD642Fu;
    return finish_hash(a, b ^ (uint64_t)self->ids[4] << 32 ^ self->creation ^ (uint64_t)self->count << 56, self->node);
}

static PyObject *reference_compare(PyObject *self, PyObject *other, int op)
{
    if (!Py_IS_TYPE(other, Py_TYPE(self)) || (op != Py_EQ && op != Py_NE))
        Py_RETURN_NOTIMPLEMENTED;
    Reference *a = (Reference *)self, *b = (Reference *)other;
    int equal = a->count == b->count && memcmp(a->ids, b->ids, sizeof a->ids) == 0 && a->creation == b->creation &&
                a->node == b->node;
    return PyBool_FromLong(equal == (op == Py_EQ));
}

static PyObject *reference_ids(Reference *self, void *Py_UNUSED(unused))
{
    PyObject *ids = PyTuple_New(self->count);
    for (uint32_t i = 0; ids != NULL && i < self->count; i++) {
        PyObject *word = PyLong_FromUnsignedLong(self->ids[i]);
        if (word == NULL)
            Py_CLEAR(ids);
        else
            PyTuple_SET_ITEM(ids, i, word);
    }
    return ids;
}

static PyObject *reference_repr(Reference *self)
{
    PyObject *ids = reference_ids(self, NULL);
    PyObject *text = ids == NULL ? NULL
                                 : PyUnicode_FromFormat("Reference(node=%R, creation=%u, ids=%R)", self->node,
                                                        self->creation, ids);
    Py_XDECREF(ids);
    return text;
}

static PyObject *reference_reduce(Reference *self, PyObject *Py_UNUSED(unused))
{
    PyObject *ids = reference_ids(self, NULL);
    return ids == NULL ? NULL : Py_BuildValue("O(OIN)", Py_TYPE(self), self->node, self->creation, ids);
}

static PyMethodDef reference_methods[] = {
    {"__reduce__", (PyCFunction)reference_reduce, METH_NOARGS, NULL},
    {"__copy__", (PyCFunction)same, METH_NOARGS, NULL},
    {"__deepcopy__", (PyCFunction)same, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef reference_members[] = {
    {"node", T_OBJECT_EX, offsetof(Reference, node), READONLY, "The node, an Atom."},
    {"creation", T_UINT, offsetof(Reference, creation), READONLY, "The node's incarnation, 32 bits."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef reference_getset[] = {
    {"ids", (getter)reference_ids, NULL, "1 to 5 words of 32 bits, in wire order.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(reference_doc,
             "Reference(node, creation, ids)\n--\n\nA reference, alias or monitor (erl_ext_dist, NEWER_REFERENCE_EXT).");

static PyType_Slot reference_slots[] = {
    {Py_tp_doc, (void *)reference_doc},       {Py_tp_new, reference_tp_new},
    {Py_tp_dealloc, node_dealloc},            {Py_tp_hash, reference_hash},
    {Py_tp_richcompare, reference_compare},   {Py_tp_repr, reference_repr},
    {Py_tp_methods, reference_methods},       {Py_tp_members, reference_members},
    {Py_tp_getset, reference_getset},         {0, NULL},
};

PyType_Spec reference_spec = {
    .name = "node.terms.Reference",
    .basicsize = sizeof(Reference),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = reference_slots,
};
