#include "services/ctl/temporary_cluster.h"

#include <sys/resource.h>

#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "services/ctl/process.h"

namespace stem {
namespace {

double Seconds(const timeval& time) { return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6; }

}  // namespace

absl::StatusOr<std::unique_ptr<TemporaryCluster>> TemporaryCluster::Start(ClusterUpOptions options) {
  std::string dir = (std::filesystem::temp_directory_path() / "stemctl-bench.XXXXXX").string();
  if (mkdtemp(dir.data()) == nullptr) return absl::UnavailableError(absl::StrCat("cannot make a folder like ", dir));
  std::unique_ptr<TemporaryCluster> cluster(new TemporaryCluster(dir));
  options.dir = dir;
  STEM_ASSIGN(cluster->state_, ClusterUp(options));
  return cluster;
}

TemporaryCluster::~TemporaryCluster() {
  if (!state_.nodes.empty()) (void)ClusterDown(dir_);
  std::error_code ignored;
  std::filesystem::remove_all(dir_, ignored);
}

double TemporaryCluster::CpuSeconds() const {
  rusage own = {};
  getrusage(RUSAGE_SELF, &own);
  double seconds = Seconds(own.ru_utime) + Seconds(own.ru_stime) + stem::CpuSeconds(state_.directory.process);
  for (const ClusterMember& node : state_.nodes) seconds += stem::CpuSeconds(node.process);
  return seconds;
}

}  // namespace stem
