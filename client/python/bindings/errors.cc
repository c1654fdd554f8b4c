#include "client/python/bindings/errors.h"

#include <string>

namespace stem::python {

namespace nb = nanobind;

nb::object ExceptionOf(const absl::Status& status) {
  const nb::module_ errors = nb::module_::import_("stemcache.errors");
  return errors.attr("of")(static_cast<int>(status.code()), std::string(status.message()).c_str());
}

void RegisterErrors() {
  nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
    try {
      std::rethrow_exception(thrown);
    } catch (const StatusError& error) {
      const nb::object exception = ExceptionOf(error.status());
      PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.ptr())), exception.ptr());
    }
  });
}

}  // namespace stem::python
