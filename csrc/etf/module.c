/* The module node._etf: what it offers, its state, and the registration of what node/terms.py defines. */
#include "etf.h"

State *state_of(PyObject *module)
{
    return (State *)PyModule_GetState(module);
}

State *state_of_type(PyTypeObject *type)
{
    return (State *)PyType_GetModuleState(type);
}

int state_ready(State *state)
{
    if (state->decode_error != NULL)
        return 0;
    PyErr_SetString(PyExc_RuntimeError, "node._etf is used through node.terms and node.etf");
    return -1;
}

PyDoc_STRVAR(register_doc,
             "register(records, encode_error, decode_error, no_payload)\n--\n\nTell the codec the classes of node.terms: a "
             "tuple in the order Export, Fun, BitString, ImproperList, Map, Record, LocalTerm, LingPid.");

static PyObject *etf_register(PyObject *module, PyObject *args)
{
    State *state = state_of(module);
    PyObject *records, *encode_error, *decode_error, *no_payload;
    if (!PyArg_ParseTuple(args, "O!OOO:register", &PyTuple_Type, &records, &encode_error, &decode_error, &no_payload))
        return NULL;
    if (PyTuple_GET_SIZE(records) != R_COUNT) {
        PyErr_Format(PyExc_ValueError, "%d classes are needed", R_COUNT);
        return NULL;
    }
    for (int kind = 0; kind < R_COUNT; kind++)
        if (records_register(state, (RecordKind)kind, PyTuple_GET_ITEM(records, kind)) < 0)
            return NULL;
    Py_XSETREF(state->encode_error, Py_NewRef(encode_error));
    Py_XSETREF(state->no_payload, Py_NewRef(no_payload));
    Py_XSETREF(state->decode_error, Py_NewRef(decode_error));
    Py_RETURN_NONE;
}

static PyObject *etf_canonical(PyObject *module, PyObject *term)
{
    State *state = state_of(module);
    return state_ready(state) < 0 ? NULL : canonical_term(state, term);
}

static PyObject *etf_atom_count(PyObject *module, PyObject *Py_UNUSED(unused))
{
    return PyLong_FromSsize_t(atom_count(state_of(module)));
}

static PyObject *etf_forget_atoms(PyObject *module, PyObject *Py_UNUSED(unused))
{
    atoms_forget(state_of(module));
    Py_RETURN_NONE;
}

#define FAST(function) (PyCFunction)(void (*)(void))function, METH_FASTCALL | METH_KEYWORDS

static PyMethodDef etf_methods[] = {
    {"encode", FAST(etf_encode),
     "encode($module, term, /, *, none='undefined', dialect='otp', ling_maps=False, crossing=None)\n--\n\nA term as "
     "bytes, beginning with 131."},
    {"encode_pieces", FAST(etf_encode_pieces),
     "encode_pieces($module, term, /, *, none='undefined', dialect='otp', ling_maps=False)\n--\n\nThe same in pieces: "
     "large binaries are the caller's objects."},
    {"encode_frame", FAST(etf_encode_frame),
     "encode_frame($module, control, payload=NO_PAYLOAD, /, *, none='undefined')\n--\n\nOne frame of a connection, in "
     "pieces."},
    {"decode", FAST(etf_decode),
     "decode($module, data, /, *, max_depth=MAX_DEPTH, max_inflated=MAX_INFLATED, dialect='otp', crossing=None)\n--\n\n"
     "The term that all of data is."},
    {"decode_prefix", FAST(etf_decode_prefix),
     "decode_prefix($module, data, /, *, max_depth=MAX_DEPTH, max_inflated=MAX_INFLATED, dialect='otp')\n--\n\n(term, "
     "bytes used)."},
    {"canonical", etf_canonical, METH_O,
     "canonical($module, term, /)\n--\n\nBytes that are the same for two terms exactly when they are =:=."},
    {"register", etf_register, METH_VARARGS, register_doc},
    {"atom_count", etf_atom_count, METH_NOARGS, "atom_count($module, /)\n--\n\nAtoms that exist."},
    {"forget_atoms", etf_forget_atoms, METH_NOARGS,
     "forget_atoms($module, /)\n--\n\nLet go of the recently used atoms."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject *add_type(PyObject *module, PyType_Spec *spec, const char *const *match_args, int visible)
{
    PyTypeObject *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    if (type == NULL)
        return NULL;
    if (match_args != NULL) {
        Py_ssize_t n = 0;
        while (match_args[n] != NULL)
            n++;
        PyObject *names = PyTuple_New(n);
        for (Py_ssize_t i = 0; names != NULL && i < n; i++) {
            PyObject *name = PyUnicode_InternFromString(match_args[i]);
            if (name == NULL)
                Py_CLEAR(names);
            else
                PyTuple_SET_ITEM(names, i, name);
        }
        if (names == NULL || PyDict_SetItemString(type->tp_dict, "__match_args__", names) < 0) {
            Py_XDECREF(names);
            Py_DECREF(type);
            return NULL;
        }
        Py_DECREF(names);
        PyType_Modified(type);
    }
    if (visible && PyModule_AddType(module, type) < 0) {
        Py_DECREF(type);
        return NULL;
    }
    return type;
}

static int etf_exec(PyObject *module)
{
    static const char *const atom_match[] = {"name", NULL};
    static const char *const pid_match[] = {"node", "id", "serial", "creation", NULL};
    static const char *const port_match[] = {"node", "id", "creation", NULL};
    static const char *const reference_match[] = {"node", "creation", "ids", NULL};
    State *state = state_of(module);
    memset(state, 0, sizeof *state);
    state->module = module;
    if ((state->atoms = atom_table_new()) == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if ((state->atom_type = add_type(module, &atom_spec, atom_match, 1)) == NULL ||
        (state->pid_type = add_type(module, &pid_spec, pid_match, 1)) == NULL ||
        (state->port_type = add_type(module, &port_spec, port_match, 1)) == NULL ||
        (state->reference_type = add_type(module, &reference_spec, reference_match, 1)) == NULL ||
        (state->block_type = add_type(module, &block_spec, NULL, 0)) == NULL ||
        (state->piece_type = add_type(module, &piece_spec, NULL, 0)) == NULL ||
        (state->reader_type = add_type(module, &reader_spec, NULL, 1)) == NULL ||
        (state->outbox_type = add_type(module, &outbox_spec, NULL, 1)) == NULL ||
        (state->crossing_type = add_type(module, &crossing_spec, NULL, 1)) == NULL)
        return -1;
    for (int i = 0; i < 256; i++)
        if ((state->small[i] = PyLong_FromLong(i)) == NULL)
            return -1;
    Atom *truth = atom_from_utf8(state, (const uint8_t *)"true", 4);
    Atom *falsehood = atom_from_utf8(state, (const uint8_t *)"false", 5);
    state->undefined = atom_from_utf8(state, (const uint8_t *)"undefined", 9);
    state->truth = truth;
    state->falsehood = falsehood;
    if (truth == NULL || falsehood == NULL || state->undefined == NULL)
        return -1;
    truth->value = Py_True;
    falsehood->value = Py_False;
    if (PyModule_AddIntConstant(module, "MAX_DEPTH", MAX_DEPTH) < 0 ||
        PyModule_AddIntConstant(module, "MAX_INFLATED", MAX_INFLATED) < 0 ||
        PyModule_AddIntConstant(module, "MAX_FRAME", MAX_FRAME) < 0 ||
        PyModule_AddIntConstant(module, "MAX_ENCODED_BIG", MAX_ENCODED_BIG) < 0 ||
        PyModule_AddIntConstant(module, "MAX_DECODED_BIG", MAX_DECODED_BIG) < 0 ||
        PyModule_AddIntConstant(module, "MAX_KEY_DEPTH", MAX_KEY_DEPTH) < 0 ||
        PyModule_AddIntConstant(module, "BIG_BINARY", BIG_BINARY) < 0 ||
        PyModule_AddIntConstant(module, "RECENT_ATOMS", RECENT_ATOMS) < 0)
        return -1;
    return 0;
}

static int etf_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = state_of(module);
    if (state == NULL)
        return 0;
    Py_VISIT(state->atom_type);
    Py_VISIT(state->pid_type);
    Py_VISIT(state->port_type);
    Py_VISIT(state->reference_type);
    Py_VISIT(state->block_type);
    Py_VISIT(state->piece_type);
    Py_VISIT(state->reader_type);
    Py_VISIT(state->outbox_type);
    Py_VISIT(state->crossing_type);
    for (int kind = 0; kind < R_COUNT; kind++)
        Py_VISIT(state->records[kind].type);
    Py_VISIT(state->encode_error);
    Py_VISIT(state->decode_error);
    Py_VISIT(state->no_payload);
    return 0;
}

static int etf_clear(PyObject *module)
{
    State *state = state_of(module);
    if (state == NULL || state->atoms == NULL)
        return 0;
    atoms_forget(state);
    Py_CLEAR(state->undefined);
    Py_CLEAR(state->truth);
    Py_CLEAR(state->falsehood);
    for (int i = 0; i < 256; i++)
        Py_CLEAR(state->small[i]);
    Py_CLEAR(state->atom_type);
    Py_CLEAR(state->pid_type);
    Py_CLEAR(state->port_type);
    Py_CLEAR(state->reference_type);
    Py_CLEAR(state->block_type);
    Py_CLEAR(state->piece_type);
    Py_CLEAR(state->reader_type);
    Py_CLEAR(state->outbox_type);
    Py_CLEAR(state->crossing_type);
    for (int kind = 0; kind < R_COUNT; kind++)
        Py_CLEAR(state->records[kind].type);
    Py_CLEAR(state->encode_error);
    Py_CLEAR(state->decode_error);
    Py_CLEAR(state->no_payload);
    return 0;
}

static void etf_free(void *module)
{
    State *state = state_of(module);
    etf_clear(module);
    if (state != NULL && state->atoms != NULL) {
        atom_table_close(state->atoms);
        state->atoms = NULL;
    }
}

static PyModuleDef_Slot etf_slots[] = {
    {Py_mod_exec, etf_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef etf_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "node._etf",
    .m_doc = "Erlang's external term format; use it through node.etf and node.terms.",
    .m_size = sizeof(State),
    .m_methods = etf_methods,
    .m_slots = etf_slots,
    .m_traverse = etf_traverse,
    .m_clear = etf_clear,
    .m_free = etf_free,
};

PyMODINIT_FUNC PyInit__etf(void)
{
    return PyModuleDef_Init(&etf_module);
}
