/* Atom, and the weak table that makes equal atoms one object.
 *
 * The table holds no references: an atom that nobody holds takes itself out when it is freed, so that a peer which
 * invents names does not fill the memory. A bounded number of short atoms that came lately over the wire is kept
 * alive beside it (State.recent), so that the same names in every message cost no allocation. The table has its own
 * count of users because atoms may outlive the module.
 */
#include "etf.h"

struct AtomTable {
    size_t users; /* atoms in the table, plus one for the module */
    size_t count;
    size_t mask;
    uint64_t seed;
    Atom **buckets;
};

#define FIRST_BUCKETS 1024

AtomTable *atom_table_new(void)
{
    AtomTable *table = PyMem_Malloc(sizeof *table);
    if (table == NULL)
        return NULL;
    table->buckets = PyMem_Calloc(FIRST_BUCKETS, sizeof(Atom *));
    if (table->buckets == NULL) {
        PyMem_Free(table);
        return NULL;
    }
    PyObject *word = PyUnicode_FromString("strawbridge"); /* its hash is Python's per-process secret */
    table->seed = word ? (uint64_t)PyObject_Hash(word) : 1;
    Py_XDECREF(word);
    PyErr_Clear();
    table->users = 1;
    table->count = 0;
    table->mask = FIRST_BUCKETS - 1;
    return table;
}

static void table_release(AtomTable *table)
{
    if (--table->users == 0) {
        PyMem_Free(table->buckets);
        PyMem_Free(table);
    }
}

void atom_table_close(AtomTable *table)
{
    table_release(table);
}

static void table_resize(AtomTable *table, size_t size)
{
    Atom **buckets = PyMem_Calloc(size, sizeof(Atom *));
    if (buckets == NULL)
        return; /* longer chains are still right */
    for (size_t i = 0; i <= table->mask; i++) {
        Atom *atom = table->buckets[i];
        while (atom != NULL) {
            Atom *next = atom->next;
            atom->next = buckets[atom->hash & (size - 1)];
            buckets[atom->hash & (size - 1)] = atom;
            atom = next;
        }
    }
    PyMem_Free(table->buckets);
    table->buckets = buckets;
    table->mask = size - 1;
}

static inline uint64_t mix(uint64_t a, uint64_t b)
{
    __uint128_t product = (__uint128_t)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t load64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

static inline uint64_t text_hash(uint64_t seed, const uint8_t *text, size_t length)
{
    uint64_t a, b, h = seed ^ (length * 0x9E3779B97F4A7C15u);
    const uint8_t *p = text;
    size_t left = length;
    while (left > 16) {
        h = mix(load64(p) ^ 0xD6E8FEB86659FD93u, load64(p + 8) ^ h);
        p += 16;
        left -= 16;
    }
    if (left >= 8) {
        a = load64(p);
        b = load64(p + left - 8);
    } else if (left >= 4) {
        uint32_t lo, hi;
        memcpy(&lo, p, 4);
        memcpy(&hi, p + left - 4, 4);
        a = lo;
        b = hi;
    } else if (left > 0) {
        a = (uint64_t)p[0] << 16 | (uint64_t)p[left >> 1] << 8 | p[left - 1];
        b = 0;
    } else {
        a = b = 0;
    }
    h = mix(a ^ 0xA0761D6478BD642Fu, b ^ h ^ 0xE7037ED1A0B428DBu);
    return h ^ h >> 29;
}

static Atom *table_find(AtomTable *table, uint64_t hash, const uint8_t *text, size_t length)
{
    for (Atom *atom = table->buckets[hash & table->mask]; atom != NULL; atom = atom->next)
        if (atom->hash == hash && atom->length == length && memcmp(atom->text, text, length) == 0)
            return atom;
    return NULL;
}

/* A new atom of `name`, which is valid and not in the table yet. Steals name. */
static Atom *atom_make(State *state, PyObject *name, uint64_t hash)
{
    Py_ssize_t length;
    const char *text = PyUnicode_AsUTF8AndSize(name, &length);
    if (text == NULL || PyUnicode_GET_LENGTH(name) > MAX_ATOM_CHARS) {
        if (text != NULL)
            PyErr_Format(PyExc_ValueError, "an atom has at most %d characters", MAX_ATOM_CHARS);
        Py_DECREF(name);
        return NULL;
    }
    Atom *atom = PyObject_New(Atom, state->atom_type);
    if (atom == NULL) {
        Py_DECREF(name);
        return NULL;
    }
    AtomTable *table = state->atoms;
    atom->name = name;
    atom->value = (PyObject *)atom;
    atom->hash = hash;
    atom->weakrefs = NULL;
    atom->text = (const uint8_t *)text;
    atom->length = (uint16_t)length;
    atom->latin1 = PyUnicode_MAX_CHAR_VALUE(name) < 256;
    atom->wired = length <= WIRE_TEXT;
    memset(atom->wire, 0, sizeof atom->wire);
    if (atom->wired) {
        atom->wire[0] = TAG_SMALL_ATOM_UTF8;
        atom->wire[1] = (uint8_t)length;
        memcpy(atom->wire + 2, text, (size_t)length);
    }
    if (table->count > table->mask)
        table_resize(table, (table->mask + 1) * 2);
    atom->table = table;
    table->users++;
    table->count++;
    atom->next = table->buckets[hash & table->mask];
    table->buckets[hash & table->mask] = atom;
    return atom;
}

Atom *atom_from_utf8(State *state, const uint8_t *text, size_t length)
{
    uint64_t hash = text_hash(state->atoms->seed, text, length);
    Atom **slot = &state->recent[hash & (RECENT_ATOMS - 1)];
    Atom *atom = *slot;
    if (atom != NULL && atom->hash == hash && atom->length == length && memcmp(atom->text, text, length) == 0) {
        Py_INCREF(atom);
        return atom;
    }
    atom = table_find(state->atoms, hash, text, length);
    if (atom != NULL) {
        Py_INCREF(atom);
    } else {
        if (length > MAX_ATOM_BYTES) {
            PyErr_Format(PyExc_ValueError, "an atom has at most %d characters", MAX_ATOM_CHARS);
            return NULL;
        }
        PyObject *name = PyUnicode_DecodeUTF8((const char *)text, (Py_ssize_t)length, NULL);
        if (name == NULL || (atom = atom_make(state, name, hash)) == NULL)
            return NULL;
    }
    if (length <= RECENT_BYTES) {
        Atom *old = *slot;
        Py_INCREF(atom);
        *slot = atom;
        Py_XDECREF(old);
    }
    return atom;
}

Atom *atom_from_str(State *state, PyObject *name)
{
    Py_ssize_t length;
    const char *text = PyUnicode_AsUTF8AndSize(name, &length);
    if (text == NULL)
        return NULL; /* UnicodeEncodeError, a ValueError: a lone surrogate */
    uint64_t hash = text_hash(state->atoms->seed, (const uint8_t *)text, (size_t)length);
    Atom *atom = table_find(state->atoms, hash, (const uint8_t *)text, (size_t)length);
    if (atom != NULL) {
        Py_INCREF(atom);
        return atom;
    }
    /* a str subclass may carry anything: the atom keeps a plain str */
    PyObject *plain = PyUnicode_CheckExact(name) ? Py_NewRef(name) : PyUnicode_FromObject(name);
    return plain == NULL ? NULL : atom_make(state, plain, hash);
}

PyObject *key_bytes(State *state, const uint8_t *text, size_t length)
{
    PyObject **slot = &state->keys[text_hash(state->atoms->seed, text, length) & (RECENT_KEYS - 1)], *old = *slot;
    if (old != NULL && (size_t)PyBytes_GET_SIZE(old) == length && memcmp(PyBytes_AS_STRING(old), text, length) == 0)
        return Py_NewRef(old);
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)text, (Py_ssize_t)length);
    if (bytes != NULL) {
        *slot = Py_NewRef(bytes);
        Py_XDECREF(old);
    }
    return bytes;
}

Py_ssize_t atom_count(State *state)
{
    return (Py_ssize_t)state->atoms->count;
}

void atoms_forget(State *state)
{
    for (size_t i = 0; i < RECENT_ATOMS; i++)
        Py_CLEAR(state->recent[i]);
    for (size_t i = 0; i < RECENT_KEYS; i++)
        Py_CLEAR(state->keys[i]);
}

static void atom_dealloc(Atom *self)
{
    AtomTable *table = self->table;
    PyTypeObject *type = Py_TYPE(self);
    /* out of the table first: a weakref callback may ask for the same name again */
    for (Atom **at = &table->buckets[self->hash & table->mask]; *at != NULL; at = &(*at)->next)
        if (*at == self) {
            *at = self->next;
            break;
        }
    table->count--;
    if (table->mask >= FIRST_BUCKETS && table->count < table->mask / 8)
        table_resize(table, (table->mask + 1) / 2);
    table_release(table);
    if (self->weakrefs != NULL)
        PyObject_ClearWeakRefs((PyObject *)self);
    Py_DECREF(self->name);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *atom_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"name", NULL};
    PyObject *name;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "U:Atom", names, &name))
        return NULL;
    State *state = state_of_type(type);
    return state == NULL ? NULL : (PyObject *)atom_from_str(state, name);
}

static PyObject *atom_repr(Atom *self)
{
    return PyUnicode_FromFormat("Atom(%R)", self->name);
}

static PyObject *atom_str(Atom *self)
{
    return Py_NewRef(self->name);
}

static PyObject *atom_reduce(Atom *self, PyObject *Py_UNUSED(unused))
{
    return Py_BuildValue("O(O)", Py_TYPE(self), self->name);
}

static PyObject *atom_same(PyObject *self, PyObject *Py_UNUSED(memo))
{
    return Py_NewRef(self);
}

static PyMethodDef atom_methods[] = {
    {"__reduce__", (PyCFunction)atom_reduce, METH_NOARGS, NULL},
    {"__copy__", (PyCFunction)atom_same, METH_NOARGS, NULL},
    {"__deepcopy__", (PyCFunction)atom_same, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef atom_members[] = {
    {"name", T_OBJECT_EX, offsetof(Atom, name), READONLY, "The atom's text."},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Atom, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(atom_doc, "Atom(name)\n--\n\nAn Erlang atom: its own type, never equal to a str. Equal atoms are one object.\n\n"
                       "ValueError when the name has more than 255 characters or a lone surrogate (erl_ext_dist, "
                       "ATOM_UTF8_EXT).");

static PyType_Slot atom_slots[] = {
    {Py_tp_doc, (void *)atom_doc},
    {Py_tp_new, atom_new},
    {Py_tp_dealloc, atom_dealloc},
    {Py_tp_repr, atom_repr},
    {Py_tp_str, atom_str},
    {Py_tp_methods, atom_methods},
    {Py_tp_members, atom_members},
    {0, NULL},
};

PyType_Spec atom_spec = {
    .name = "node.terms.Atom",
    .basicsize = sizeof(Atom),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = atom_slots,
};
