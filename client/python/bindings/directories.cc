#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/directory_stub.h"
#include "client/python/bindings/client.h"
#include "client/python/bindings/errors.h"
#include "client/python/bindings/memory.h"
#include "client/python/bindings/module.h"
#include "nanobind/stl/string.h"
#include "nanobind/stl/vector.h"

namespace stem::python {

namespace nb = nanobind;
using nb::literals::operator""_a;
namespace v1 = stemcache::v1;

namespace {

// Threads: any.
class PyDirectories {
 public:
  PyDirectories(const std::vector<std::string>& addresses, const std::string& authorization)
      : stub_(std::make_unique<DirectoryStub>(OptionsOf(authorization))) {
    Check(stub_->SetDirectories(addresses));
  }
  ~PyDirectories() {
    const nb::gil_scoped_release released;  // it has threads to wait for
    stub_.reset();
  }
  PyDirectories(const PyDirectories&) = delete;
  PyDirectories& operator=(const PyDirectories&) = delete;

  v1::ScoreReply Score(const PyClient& client, const nb::bytes& keys, const std::vector<std::string>& nodes, double timeout_s) const {
    const std::vector<BlockKey> chain = KeysOf(keys);
    const NamespaceFingerprint space = client.get()->fingerprint();
    const nb::gil_scoped_release released;
    return ValueOf(stub_->Score({.space = space, .keys = chain, .parts = {}, .first = {}}, nodes, After(timeout_s)));
  }

 private:
  static DirectoryStub::Options OptionsOf(const std::string& authorization) {
    DirectoryStub::Options options;
    if (!authorization.empty()) {
      options.authorize = [authorization](grpc::ClientContext& call) { call.AddMetadata("authorization", authorization); };
    }
    return options;
  }

  std::unique_ptr<DirectoryStub> stub_;
};

}  // namespace

void BindDirectories(nb::module_& module) {
  using Node = v1::ScoreReply::Node;
  nb::class_<Node>(module, "NodeScore", "How much of a chain one node holds.")
      .def_prop_ro("node", [](const Node& node) { return std::string(node.node()); })
      .def_prop_ro("matched_blocks", &Node::matched_blocks, "The leading run that it holds itself, in any tier.")
      .def_prop_ro("dram_blocks", &Node::dram_blocks, "Of those, in memory.")
      .def_prop_ro("ssd_blocks", &Node::ssd_blocks)
      .def_prop_ro("engine_blocks", &Node::engine_blocks, "The leading run in the own cache of the node's engine, where the node follows it.")
      .def_prop_ro("health_percent", &Node::health_percent, "100 = its reads come in time and pass their proofs.");
  nb::class_<PyDirectories>(module, "Directories", "A cluster's directories as if they were one: what a router asks. Any thread may call it.")
      .def(nb::init<const std::vector<std::string>&, const std::string&>(), "addresses"_a, nb::kw_only(), "authorization"_a = "",
           "addresses: host:port each. authorization: what a member of the cluster shows (stemcache.router.member_token).")
      .def("score",
           [](const PyDirectories& self, const PyClient& client, const nb::bytes& keys, const std::vector<std::string>& nodes,
              double timeout_s) {
             const v1::ScoreReply reply = self.Score(client, keys, nodes, timeout_s);
             return std::vector<Node>(reply.nodes().begin(), reply.nodes().end());
           },
           "client"_a, "keys"_a, "nodes"_a, nb::kw_only(), "timeout_s"_a = 0.05,
           "What each of `nodes` holds of a chain of the client's namespace, in their order; all nodes when none are given.");
}

}  // namespace stem::python
