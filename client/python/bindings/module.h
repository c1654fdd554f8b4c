// What each file of the bindings adds to the module.
#pragma once

#include "nanobind/nanobind.h"

namespace stem::python {

void BindClient(nanobind::module_& module);
void BindDirectories(nanobind::module_& module);
void BindPages(nanobind::module_& module);

}  // namespace stem::python
