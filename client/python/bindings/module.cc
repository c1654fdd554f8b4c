#include "client/python/bindings/module.h"

#include "client/python/bindings/errors.h"

NB_MODULE(_core, module) {
  module.doc() = "Stemcache's client: the compiled half of the package `stemcache`, which is where to look.";
  stem::python::RegisterErrors();
  stem::python::BindClient(module);
  stem::python::BindPages(module);
  stem::python::BindDirectories(module);
}
