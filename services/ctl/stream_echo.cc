#include "services/ctl/stream_echo.h"

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/server_builder.h"
#include "stemcache/v1/node.grpc.pb.h"

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;
using Clock = std::chrono::steady_clock;

class EchoService final : public v1::Node::CallbackService {
 public:
  grpc::ServerBidiReactor<v1::ClientMessage, v1::NodeMessage>* Session(grpc::CallbackServerContext*) override {
    class Reactor final : public grpc::ServerBidiReactor<v1::ClientMessage, v1::NodeMessage> {
     public:
      Reactor() { StartRead(&in_); }
      void OnReadDone(bool ok) override { ok ? StartWrite(&out_) : Finish(grpc::Status::OK); }
      void OnWriteDone(bool ok) override { ok ? StartRead(&in_) : Finish(grpc::Status::OK); }
      void OnDone() override { delete this; }

     private:
      v1::ClientMessage in_;
      v1::NodeMessage out_;
    };
    return new Reactor;
  }
};

}  // namespace

absl::StatusOr<LatencyHistogram> MeasureStreamEcho(uint32_t messages) {
  std::string dir = (std::filesystem::temp_directory_path() / "stemctl-echo.XXXXXX").string();
  if (mkdtemp(dir.data()) == nullptr) return absl::UnavailableError(absl::StrCat("cannot make a folder like ", dir));
  const absl::Cleanup remove = [&] { std::filesystem::remove_all(dir); };
  const std::string target = absl::StrCat("unix:", dir, "/echo");
  EchoService service;
  grpc::ServerBuilder builder;
  builder.RegisterService(&service);
  builder.AddListeningPort(target, grpc::InsecureServerCredentials());
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) return absl::UnavailableError(absl::StrCat("cannot listen on ", target));
  const auto stub = v1::Node::NewStub(grpc::CreateChannel(target, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  const auto stream = stub->Session(&context);
  LatencyHistogram times;
  const v1::ClientMessage ping;
  v1::NodeMessage pong;
  for (uint32_t i = 0; i < messages; ++i) {
    const Clock::time_point begin = Clock::now();
    if (!stream->Write(ping) || !stream->Read(&pong)) return absl::UnavailableError("the echo's stream broke");
    times.Record(absl::FromChrono(Clock::now() - begin));
  }
  stream->WritesDone();
  (void)stream->Finish();
  server->Shutdown();
  return times;
}

}  // namespace stem
