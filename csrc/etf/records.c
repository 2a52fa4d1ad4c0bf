/* The value classes that node/terms.py writes in Python: slotted and frozen, made and read here by slot.
 *
 * Calling their constructors would cost half a microsecond each and run Python code in the middle of a decode. So
 * registration asks the slot descriptors where each field lives, and afterwards a record is an allocation and a store.
 */
#include "etf.h"

static const char *const field_names[R_COUNT][MAX_FIELDS + 1] = {
    [R_EXPORT] = {"module", "function", "arity"},
    [R_FUN] = {"arity", "uniq", "index", "free", "module", "old_index", "old_uniq", "pid"},
    [R_BITS] = {"data", "bits"},
    [R_IMPROPER] = {"items", "tail"},
    [R_MAP] = {"pairs"},
    [R_RECORD] = {"module", "name", "exported", "fields", "values"},
    [R_LOCAL] = {"data"},
    [R_LING_PID] = {"boxid", "domid", "id"},
};

int records_register(State *state, RecordKind kind, PyObject *cls)
{
    RecordClass info;
    if (!PyType_Check(cls) || ((PyTypeObject *)cls)->tp_dictoffset != 0) {
        PyErr_SetString(PyExc_TypeError, "a class with __slots__ is needed");
        return -1;
    }
    info.type = (PyTypeObject *)cls;
    for (int i = 0; field_names[kind][i] != NULL; i++) {
        PyObject *slot = PyObject_GetAttrString(cls, field_names[kind][i]);
        if (slot == NULL)
            return -1;
        int usable = Py_IS_TYPE(slot, &PyMemberDescr_Type) && ((PyMemberDescrObject *)slot)->d_member->type == T_OBJECT_EX;
        info.offset[i] = usable ? ((PyMemberDescrObject *)slot)->d_member->offset : 0;
        Py_DECREF(slot);
        if (!usable) {
            PyErr_Format(PyExc_TypeError, "%s is not a slot", field_names[kind][i]);
            return -1;
        }
    }
    Py_INCREF(cls);
    PyTypeObject *old = state->records[kind].type;
    state->records[kind] = info;
    Py_XDECREF(old);
    return 0;
}

PyObject *record_new(State *state, RecordKind kind)
{
    PyTypeObject *type = state->records[kind].type;
    return type->tp_alloc(type, 0); /* zeroed */
}

PyObject *record_get(State *state, RecordKind kind, PyObject *record, int field)
{
    return *(PyObject **)((char *)record + state->records[kind].offset[field]);
}
