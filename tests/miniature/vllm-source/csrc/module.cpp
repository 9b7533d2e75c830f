#include <Python.h>
#include <string>

extern "C" long dnnl_add(long left, long right);
long kernel_1(const std::string& text);
long kernel_2(const std::string& text);
long kernel_3(const std::string& text);
long kernel_4(const std::string& text);
long kernel_5(const std::string& text);
long kernel_6(const std::string& text);

static PyObject* add(PyObject*, PyObject* arguments) {
  const char *left, *right;
  if (!PyArg_ParseTuple(arguments, "ss", &left, &right)) return nullptr;
  const long none = kernel_3("") + kernel_4("") + kernel_5("") + kernel_6("");
  return PyLong_FromLong(none + dnnl_add(kernel_1(left), kernel_2(right)));
}

static PyMethodDef methods[] = {{"add", add, METH_VARARGS, "Adds two numbers in texts."}, {nullptr, nullptr, 0, nullptr}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&definition); }
