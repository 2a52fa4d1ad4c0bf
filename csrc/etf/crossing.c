/* Crossing: the tables of one peer domain, as the codec uses them.
 *
 * A pid crosses as LING's tag 160, which names the domain that gave it out and an id of 27 bits; references cross as they
 * are, or as one of a table, as docs/strawman.md ("Pids across straws") tells. Who fills the tables, counts and forgets is
 * node/strawman/tables.py. No Python code runs while a term is walked: what has no id yet leaves a hole of four bytes, and
 * `give` is asked once for all of them when the walk is over; ids of the peer that are new are handed to `take` after a
 * walk that found nothing else wrong, and then the frame is read again.
 */
#include "crossing.h"
#include "decode.h"
#include "encode.h"

/* ---- encoding ---- */

static int add_hole(Encoder *e, uint64_t at, PyObject *what, PyObject *owner)
{
    Holes *h = e->o->holes;
    if (h->count == h->room) {
        size_t room = h->room == 0 ? 8 : 2 * h->room;
        uint64_t *more = PyMem_Realloc(h->at, room * sizeof *more);
        if (more == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        h->at = more;
        h->room = room;
    }
    if (h->wanted == NULL && (h->wanted = PyList_New(0)) == NULL)
        return -1;
    PyObject *pair = PyTuple_Pack(2, what, owner == NULL ? Py_None : owner);
    int bad = pair == NULL ? -1 : PyList_Append(h->wanted, pair);
    Py_XDECREF(pair);
    if (bad == 0)
        h->at[h->count++] = at;
    return bad;
}

int cross_pid(Encoder *e, const Pid *pid)
{
    const Crossing *c = e->o->crossing;
    if (writer_need(e->w, 17) < 0)
        return -1;
    uint64_t address = (uint64_t)c->ours << 32;
    PyObject *known = PyDict_GetItemWithError(c->out, (PyObject *)pid);
    if (known != NULL)
        address = PyLong_AsUnsignedLongLong(known);
    else if (PyErr_Occurred() || add_hole(e, writer_position(e->w) + 13, (PyObject *)pid, NULL) < 0)
        return -1;
    uint8_t *p = e->w->p;
    p[0] = TAG_LING_PID;
    put64(p + 1, 0);
    put64(p + 9, address);
    e->w->p += 17;
    return 0;
}

/* Who is named beside a reference: the Pid of a `{Pid, Ref}`, or of a `{Pid, [Ref | _]}`, that is being written. */
static PyObject *owner_of(const Encoder *e)
{
    if (e->depth == 0)
        return NULL;
    const Frame *f = &e->stack[e->depth - 1];
    if ((f->kind == E_IMPROPER || f->kind == E_LIST) && f->i == 1 && e->depth > 1)
        f--;
    if (f->kind != E_TUPLE || f->n != 2 || f->i != 2)
        return NULL;
    PyObject *first = PyTuple_GET_ITEM(f->items, 0);
    return Py_IS_TYPE(first, e->state->pid_type) ? first : NULL;
}

static int put_from_table(Encoder *e, PyObject *what)
{
    if (put_plain_reference(e, e->o->crossing->own) < 0)
        return -1;
    return add_hole(e, writer_position(e->w) - 4, what, owner_of(e));
}

int is_alias(const Crossing *c, PyObject *items, PyObject *tail)
{
    return PyTuple_GET_SIZE(items) == 1 && PyTuple_GET_ITEM(items, 0) == (PyObject *)c->alias &&
           Py_IS_TYPE(tail, c->state->reference_type);
}

int cross_alias(Encoder *e, PyObject *improper)
{
    return put_from_table(e, improper);
}

/* The atom that tells a LING a reference's node and creation, new reference; NULL without an exception when there can be
 * none. */
static Atom *node_of_reference(const Crossing *c, const Reference *ref)
{
    uint8_t text[16 + MAX_ATOM_BYTES];
    int head = snprintf((char *)text, 16, "%u:", (unsigned)ref->creation);
    size_t characters = (size_t)head;
    if (!ref->node->latin1)
        return NULL;
    for (size_t i = 0; i < ref->node->length; i++)
        characters += (ref->node->text[i] & 0xC0) != 0x80;
    if (characters > MAX_ATOM_CHARS)
        return NULL;
    memcpy(text + head, ref->node->text, ref->node->length);
    Atom *atom = atom_from_utf8(c->state, text, (size_t)head + ref->node->length);
    if (atom == NULL)
        return NULL;
    int known = PySet_Contains(c->nodes, (PyObject *)atom);
    if (known == 0 && PySet_GET_SIZE(c->nodes) < (Py_ssize_t)c->max_nodes)
        known = PySet_Add(c->nodes, (PyObject *)atom) < 0 ? -1 : 1;
    if (known <= 0)
        Py_CLEAR(atom);
    return atom;
}

int cross_reference(Encoder *e, const Reference *ref)
{
    const Crossing *c = e->o->crossing;
    if (e->o->dialect != DIALECT_LING)
        return put_plain_reference(e, ref);
    Reference said = *ref; /* never seen by Python: only written */
    if (ref->ids[0] >= LING_REF_FIRST)
        return put_from_table(e, (PyObject *)ref);
    if (ref->node == c->peer_node && ref->creation == 0 && ref->count <= LING_REF_WORDS) {
        said.node = c->local;
        return put_plain_reference(e, &said);
    }
    if (ref->count != LING_REF_WORDS)
        return put_from_table(e, (PyObject *)ref);
    said.node = node_of_reference(c, ref);
    if (said.node == NULL)
        return PyErr_Occurred() ? -1 : put_from_table(e, (PyObject *)ref);
    said.creation = 0;
    int result = put_plain_reference(e, &said);
    Py_DECREF(said.node);
    return result;
}

/* Where position `at` lies: in what is being written, or in a piece of ours that nobody has seen yet. */
static uint8_t *place_of(const BytesWriter *b, uint64_t at)
{
    if (at >= b->w.before)
        return b->w.base + (at - b->w.before);
    PyObject *piece = NULL;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(b->pieces); i++) {
        piece = PyList_GET_ITEM(b->pieces, i);
        if (at < (uint64_t)PyBytes_GET_SIZE(piece))
            break;
        at -= (uint64_t)PyBytes_GET_SIZE(piece);
    }
    return (uint8_t *)PyBytes_AS_STRING(piece) + at;
}

int holes_fill(const Crossing *c, Holes *holes, BytesWriter *b)
{
    if (holes->count == 0)
        return 0;
    PyObject *numbers = PyObject_CallOneArg(c->give, holes->wanted);
    if (numbers == NULL)
        return -1;
    int bad = !PyList_CheckExact(numbers) || PyList_GET_SIZE(numbers) != (Py_ssize_t)holes->count;
    for (size_t i = 0; !bad && i < holes->count; i++) {
        PyObject *number = PyList_GET_ITEM(numbers, (Py_ssize_t)i);
        unsigned long word = PyLong_Check(number) ? PyLong_AsUnsignedLong(number) : (unsigned long)-1;
        if ((bad = word > UINT32_MAX) == 0)
            put32(place_of(b, holes->at[i]), (uint32_t)word);
    }
    if (bad) {
        PyErr_Clear();
        PyErr_SetString(PyExc_TypeError, "give must return a list of as many 32 bit numbers as it got");
    }
    Py_DECREF(numbers);
    return bad ? -1 : 0;
}

void holes_drop(Holes *holes)
{
    Py_CLEAR(holes->wanted);
    PyMem_Free(holes->at);
    holes->at = NULL;
}

/* ---- decoding ---- */

static const uint8_t *forged(Decoder *d, const uint8_t *at, const char *error)
{
    d->crossing->forged++;
    fail(d, at, error);
    return NULL;
}

const uint8_t *read_crossing_pid(Decoder *d, const uint8_t *p, PyObject **value)
{
    const Crossing *c = d->crossing;
    if (d->end - p < 17) {
        fail(d, d->end, TRUNCATED);
        return NULL;
    }
    uint32_t domid = get32(p + 9), id = get32(p + 13);
    if (get64(p + 1) != 0 || id > LING_ID_MASK || (domid != c->ours && domid != c->peer))
        return forged(d, p, "a pid of another machine or of a third domain");
    PyObject *key = PyLong_FromUnsignedLong(id);
    PyObject *known = key == NULL ? NULL : PyDict_GetItemWithError(domid == c->ours ? c->given : c->proxies, key);
    if (known != NULL) {
        *value = Py_NewRef(known);
    } else if (PyErr_Occurred()) {
        goto raised;
    } else if (domid == c->ours) {
        if (((id - c->start) & LING_ID_MASK) >= c->spent) {
            Py_DECREF(key);
            return forged(d, p, "a pid that was not given out to this domain");
        }
        *value = pid_new(c->state, (Atom *)Py_NewRef(c->dead->node), id, c->dead->serial, c->dead->creation);
        if (*value == NULL)
            goto raised;
    } else {
        if (!d->takes) {
            Py_DECREF(key);
            fail(d, p, "no room for more processes of the other domain");
            return NULL;
        }
        /* for now one that differs from all others; the frame will be read again */
        *value = pid_new(c->state, (Atom *)Py_NewRef(c->peer_node), id, 0, 0);
        if (*value == NULL)
            goto raised;
        if ((d->missing == NULL && (d->missing = PyList_New(0)) == NULL) || PyList_Append(d->missing, key) < 0) {
            Py_CLEAR(*value);
            goto raised;
        }
    }
    Py_DECREF(key);
    return p + 17;
raised:
    Py_XDECREF(key);
    d->error = NULL;
    return NULL;
}

/* "123:a@b": what node_of_reference() made. The length of "123:", 0 when it is not that. */
static size_t creation_of(const Atom *node, uint32_t *creation)
{
    uint64_t number = 0;
    size_t i = 0;
    while (i < node->length && i < 10 && node->text[i] >= '0' && node->text[i] <= '9')
        number = 10 * number + (uint64_t)(node->text[i++] - '0');
    if (i == 0 || (i > 1 && node->text[0] == '0') || number > UINT32_MAX || i == node->length || node->text[i] != ':')
        return 0;
    *creation = (uint32_t)number;
    return i + 1;
}

int turn_reference(Decoder *d, uint8_t tag, int tail, PyObject **value)
{
    const Crossing *c = d->crossing;
    Reference *ref = (Reference *)*value; /* nobody else has seen it */
    size_t head;
    d->error = NULL;
    if (tag != TAG_NEWER_REFERENCE && ref->creation == 0 && ref->count <= LING_REF_WORDS) {
        if (ref->node == c->local) {
            Py_SETREF(ref->node, (Atom *)Py_NewRef(c->peer_node));
        } else if ((head = creation_of(ref->node, &ref->creation)) > 0) {
            Atom *node = atom_from_utf8(c->state, ref->node->text + head, ref->node->length - head);
            if (node == NULL)
                return -1;
            Py_SETREF(ref->node, node);
            ref->count = LING_REF_WORDS; /* a LING leaves out the words at the end that are 0 */
        }
    }
    if (ref->node != c->own->node || ref->creation != c->own->creation || ref->count != LING_REF_WORDS ||
        ref->ids[0] != c->own->ids[0] || ref->ids[1] != c->own->ids[1])
        return 0;
    PyObject *key = PyLong_FromUnsignedLong(ref->ids[2]);
    PyObject *known = key == NULL ? NULL : PyDict_GetItemWithError(c->refs, key);
    Py_XDECREF(key);
    if (known != NULL && (!tail || Py_IS_TYPE(known, c->state->reference_type)))
        Py_SETREF(*value, Py_NewRef(known));
    return PyErr_Occurred() ? -1 : 0;
}

/* ---- calls: as encode() and decode(), without the cost of keywords ---- */

static PyObject *crossing_encode(Crossing *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 4 && nargs != 5) {
        PyErr_SetString(PyExc_TypeError, "encode takes term, none, dialect, ling_maps and pieces");
        return NULL;
    }
    EncodeOptions options = {.state = self->state, .crossing = self};
    int pieces = nargs == 5 ? PyObject_IsTrue(args[4]) : 0;
    PyObject *list = pieces > 0 ? PyList_New(0) : NULL;
    if (pieces < 0 || (pieces > 0 && list == NULL))
        return NULL;
    if ((options.dialect = dialect_argument(args[2])) < 0 || (options.ling_maps = PyObject_IsTrue(args[3])) < 0 ||
        (options.none = none_argument(self->state, args[1])) == NULL) {
        Py_XDECREF(list);
        return NULL;
    }
    PyObject *result = encode_bytes(&options, args[0], list);
    if (result != NULL && list != NULL && PyList_GET_SIZE(list) == 1)
        Py_SETREF(result, Py_NewRef(PyList_GET_ITEM(list, 0)));
    Py_DECREF(options.none);
    Py_XDECREF(list);
    return result;
}

static PyObject *crossing_decode(Crossing *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 3) {
        PyErr_SetString(PyExc_TypeError, "decode takes data, max_depth and max_inflated");
        return NULL;
    }
    Decoder d = {.state = self->state, .dialect = DIALECT_LING, .specials = 1, .crossing = self};
    if (option_size(args[1], "max_depth", &d.max_depth) < 0 ||
        option_size(args[2], "max_inflated", &d.max_inflated) < 0)
        return NULL;
    return decode_bytes(&d, args[0], NULL);
}

static PyMethodDef crossing_methods[] = {
    {"encode", (PyCFunction)(void (*)(void))crossing_encode, METH_FASTCALL,
     "encode($self, term, none, dialect, ling_maps, pieces=False, /)\n--\n\n"
     "encode() with this crossing. pieces: as a list when there are big binaries, which are passed on as they are."},
    {"decode", (PyCFunction)(void (*)(void))crossing_decode, METH_FASTCALL,
     "decode($self, data, max_depth, max_inflated, /)\n--\n\ndecode() of a LING's words with this crossing."},
    {NULL, NULL, 0, NULL},
};

/* ---- the type ---- */

static int word(PyObject *value, uint32_t *out)
{
    unsigned long number = PyLong_Check(value) ? PyLong_AsUnsignedLong(value) : (unsigned long)-1;
    if (number > UINT32_MAX) {
        PyErr_Clear();
        PyErr_SetString(PyExc_ValueError, "a number of 32 bits is needed");
        return -1;
    }
    *out = (uint32_t)number;
    return 0;
}

static PyObject *crossing_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"ours", "peer", "start", "own", "dead", "peer_node", "give", "take", "max_nodes", NULL};
    State *state = state_of_type(type);
    PyObject *ours, *peer, *start, *own, *dead, *peer_node, *give, *take, *max_nodes;
    if (state == NULL || state_ready(state) < 0 ||
        !PyArg_ParseTupleAndKeywords(args, kwargs, "OOOO!O!O!OOO:Crossing", names, &ours, &peer, &start,
                                     state->reference_type, &own, state->pid_type, &dead, state->atom_type, &peer_node,
                                     &give, &take, &max_nodes))
        return NULL;
    if (((Reference *)own)->count != LING_REF_WORDS || ((Reference *)own)->ids[0] >= LING_REF_FIRST ||
        ((Reference *)own)->creation > 3 || !((Reference *)own)->node->latin1) {
        PyErr_SetString(PyExc_ValueError, "own must be a reference that a LING takes, of three words");
        return NULL;
    }
    Crossing *self = (Crossing *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->state = state;
    self->own = (Reference *)Py_NewRef(own);
    self->dead = (Pid *)Py_NewRef(dead);
    self->peer_node = (Atom *)Py_NewRef(peer_node);
    self->give = Py_NewRef(give);
    self->take = Py_NewRef(take);
    if (word(ours, &self->ours) < 0 || word(peer, &self->peer) < 0 || word(start, &self->start) < 0 ||
        word(max_nodes, &self->max_nodes) < 0 ||
        (self->local = atom_from_utf8(state, (const uint8_t *)"local", 5)) == NULL ||
        (self->alias = atom_from_utf8(state, (const uint8_t *)"alias", 5)) == NULL ||
        (self->given = PyDict_New()) == NULL || (self->proxies = PyDict_New()) == NULL ||
        (self->out = PyDict_New()) == NULL || (self->refs = PyDict_New()) == NULL ||
        (self->nodes = PySet_New(NULL)) == NULL)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static int crossing_traverse(Crossing *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->given);
    Py_VISIT(self->proxies);
    Py_VISIT(self->out);
    Py_VISIT(self->refs);
    Py_VISIT(self->nodes);
    Py_VISIT(self->give);
    Py_VISIT(self->take);
    return 0;
}

/* The dicts stay: the codec reads them without asking. What they hold goes. */
static int crossing_clear(Crossing *self)
{
    if (self->given != NULL)
        PyDict_Clear(self->given);
    if (self->proxies != NULL)
        PyDict_Clear(self->proxies);
    if (self->out != NULL)
        PyDict_Clear(self->out);
    if (self->refs != NULL)
        PyDict_Clear(self->refs);
    Py_XSETREF(self->give, Py_NewRef(Py_None));
    Py_XSETREF(self->take, Py_NewRef(Py_None));
    return 0;
}

static void crossing_dealloc(Crossing *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->own);
    Py_XDECREF(self->dead);
    Py_XDECREF(self->peer_node);
    Py_XDECREF(self->local);
    Py_XDECREF(self->alias);
    Py_XDECREF(self->given);
    Py_XDECREF(self->proxies);
    Py_XDECREF(self->out);
    Py_XDECREF(self->refs);
    Py_XDECREF(self->nodes);
    Py_XDECREF(self->give);
    Py_XDECREF(self->take);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef crossing_members[] = {
    {"ours", T_UINT, offsetof(Crossing, ours), READONLY, "Our domain id."},
    {"peer", T_UINT, offsetof(Crossing, peer), READONLY, "The other domain's id."},
    {"start", T_UINT, offsetof(Crossing, start), READONLY, "The first of our ids."},
    {"spent", T_UINT, offsetof(Crossing, spent), 0, "How many of our ids were given out, counting on from start."},
    {"forged", T_UINT, offsetof(Crossing, forged), 0, "Pids that the peer can't have from us."},
    {"own", T_OBJECT_EX, offsetof(Crossing, own), READONLY, "What references of our table have in common."},
    {"peer_node", T_OBJECT_EX, offsetof(Crossing, peer_node), READONLY, "The node of a LING's own references."},
    {"given", T_OBJECT_EX, offsetof(Crossing, given), READONLY, "Our ids: id -> Pid."},
    {"proxies", T_OBJECT_EX, offsetof(Crossing, proxies), READONLY, "The peer's ids: id -> Pid."},
    {"out", T_OBJECT_EX, offsetof(Crossing, out), READONLY, "Both: Pid -> domid << 32 | id."},
    {"refs", T_OBJECT_EX, offsetof(Crossing, refs), READONLY, "Third word -> Reference or ImproperList."},
    {"nodes", T_OBJECT_EX, offsetof(Crossing, nodes), READONLY, "Node atoms that a LING has been told."},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(crossing_doc,
             "Crossing(ours, peer, start, own, dead, peer_node, give, take, max_nodes)\n--\n\nWhat pids and references "
             "become between two domains; see node.strawman.tables.");

static PyType_Slot crossing_slots[] = {
    {Py_tp_doc, (void *)crossing_doc},      {Py_tp_new, crossing_tp_new},     {Py_tp_dealloc, crossing_dealloc},
    {Py_tp_traverse, crossing_traverse},    {Py_tp_clear, crossing_clear},    {Py_tp_members, crossing_members},
    {Py_tp_methods, crossing_methods},
    {0, NULL},
};

PyType_Spec crossing_spec = {
    .name = "node._etf.Crossing",
    .basicsize = sizeof(Crossing),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = crossing_slots,
};
