#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/server_builder.h"
#include "proto/check.h"
#include "services/runtime/listen.h"
#include "stemcache/v1/directory.grpc.pb.h"
#include "tests/bench/directory/directory_process.h"
#include "tests/bench/directory/filled_index.h"
#include "tests/bench/directory/measure.h"
#include "tests/bench/directory/scenarios.h"

namespace stem::bench {
namespace {

using grpc::ByteBuffer;

constexpr char kMatch[] = "/stemcache.v1.Directory/Match";
constexpr int kKeepaliveMillis = 10'000;  // as the directory's server
constexpr uint32_t kRequests = 512;       // different ones, in turn
constexpr uint32_t kInFlight = 32;        // when saturating

ByteBuffer Bytes(const std::string& text) {
  const grpc::Slice slice(text);
  return ByteBuffer(&slice, 1);
}

// Answers Match with bytes made once; reads nothing.
class Echo final : public v1::Directory::WithRawCallbackMethod_Match<v1::Directory::Service> {
 public:
  explicit Echo(size_t reply_bytes) : reply_(Bytes(std::string(reply_bytes, 'x'))) {}
  grpc::ServerUnaryReactor* Match(grpc::CallbackServerContext* context, const ByteBuffer*, ByteBuffer* reply) override {
    *reply = reply_;
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

 private:
  const ByteBuffer reply_;
};

// The echo in a process of its own, which must be forked before this one has a thread.
class EchoProcess {
 public:
  EchoProcess() {
    STEM_CHECK(pipe(to_) == 0 && pipe(from_) == 0);
    pid_ = fork();
    if (pid_ == 0) Serve();
  }
  ~EchoProcess() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  // Its address.
  std::string Start(size_t reply_bytes) {
    uint16_t port = 0;
    STEM_CHECK(write(to_[1], &reply_bytes, sizeof(reply_bytes)) == sizeof(reply_bytes));
    STEM_CHECK(read(from_[0], &port, sizeof(port)) == sizeof(port));
    return absl::StrCat("127.0.0.1:", port);
  }

 private:
  [[noreturn]] void Serve() {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    size_t reply_bytes = 0;
    if (read(to_[0], &reply_bytes, sizeof(reply_bytes)) != sizeof(reply_bytes)) _exit(0);
    Echo echo(reply_bytes);
    grpc::ServerBuilder builder;
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMillis);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveMillis);
    builder.RegisterService(&echo);
    const GrpcServer server = *StartGrpcServer(builder, {{.host = "127.0.0.1", .port = 0}});
    STEM_CHECK(write(from_[1], &server.ports[0], sizeof(uint16_t)) == sizeof(uint16_t));
    for (;;) pause();
  }

  int to_[2], from_[2];
  pid_t pid_ = 0;
};

// One stream that holds the shape and beats on.
class NodeStream {
 public:
  NodeStream(const std::string& address, const Shape& shape) : stub_(v1::Directory::NewStub(OwnChannel(address))) {
    secret_.AddToken(context_);
    stream_ = stub_->Announce(&context_);
    reader_ = std::thread([this] {
      v1::AnnounceReply reply;
      while (stream_->Read(&reply)) STEM_CHECK(reply.has_acknowledge());
    });
    v1::AnnounceMessage message;
    *message.mutable_hello() = HelloOf(0);
    STEM_CHECK(stream_->Write(message));
    for (uint64_t chain = 0; chain < shape.chains(); ++chain) {
      v1::SnapshotChunk* chunk = message.mutable_chunk();
      chunk->Clear();
      chunk->set_index(static_cast<uint32_t>(chain));
      chunk->set_last(chain + 1 == shape.chains());
      v1::InternedNamespace* interned = chunk->add_namespaces();
      interned->set_number(1);
      const NamespaceFingerprint space = BenchSpace();
      interned->set_fingerprint(space.bytes().data(), space.bytes().size());
      v1::ChangeRun* run = chunk->add_runs();
      run->set_namespace_(1);
      run->set_tier(v1::TIER_DRAM);
      run->set_keys(PackKeys(KeysAt(chain, 0, shape.blocks_of(chain))));
      STEM_CHECK(stream_->Write(message));
    }
    beater_ = std::thread([this] {
      while (!stop_) {
        v1::AnnounceMessage beat;
        beat.mutable_heartbeat();
        stream_->Write(beat);
        std::this_thread::sleep_for(std::chrono::milliseconds(400));
      }
    });
  }
  ~NodeStream() {
    stop_ = true;
    beater_.join();
    context_.TryCancel();
    reader_.join();
    stream_->Finish().error_code();
  }

 private:
  const ClusterSecret secret_ = BenchSecret();
  const std::unique_ptr<v1::Directory::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::AnnounceMessage, v1::AnnounceReply>> stream_;
  std::thread reader_, beater_;
  std::atomic<bool> stop_{false};
};

// Calls of one server, by bytes: what the client does is the same for both.
class Caller {
 public:
  Caller(const std::string& address, const std::vector<ByteBuffer>& requests)
      : stub_(OwnChannel(address)), requests_(requests) {}

  // One at a time.
  void Closed(uint32_t calls, Samples& samples) {
    for (uint32_t i = 0; i < calls; ++i) {
      std::atomic<bool> done{false};
      const Clock::time_point begin = Clock::now();
      Call([&](double) {
        done = true;
        done.notify_one();
      });
      done.wait(false);
      samples.Add(SecondsSince(begin) * 1e9);
    }
  }

  // Calls per second with kInFlight always under way.
  double Saturate(double seconds) {
    const Clock::time_point begin = Clock::now();
    std::atomic<uint64_t> calls{0};
    std::function<void(double)> again = [&](double) {
      ++calls;
      if (SecondsSince(begin) < seconds) Call(again);
    };
    for (uint32_t i = 0; i < kInFlight; ++i) Call(again);
    Drain();
    return static_cast<double>(calls) / SecondsSince(begin);
  }

  // Arrivals at random times, `per_second` on average, whatever the answers do; latency counts from the time a call
  // was due.
  void Open(double per_second, double seconds, Samples& samples) {
    std::mt19937_64 random(1);
    std::exponential_distribution<double> gap(per_second);
    const auto calls = static_cast<size_t>(per_second * seconds);
    std::vector<double> ns(calls);
    const Clock::time_point begin = Clock::now();
    double due = 0;
    for (size_t i = 0; i < calls; ++i) {
      due += gap(random);
      const Clock::time_point at = begin + std::chrono::nanoseconds(static_cast<int64_t>(due * 1e9));
      std::this_thread::sleep_until(at);
      Call([&ns, i, at](double) { ns[i] = SecondsSince(at) * 1e9; });
    }
    Drain();
    for (const double each : ns) samples.Add(each);
  }

  ByteBuffer Once() {
    ByteBuffer reply;
    std::atomic<bool> done{false};
    Call([&](double) { done = true; }, &reply);
    Drain();
    return reply;
  }

 private:
  struct InFlight {
    grpc::ClientContext context;
    ByteBuffer reply;
  };

  void Call(std::function<void(double)> then, ByteBuffer* reply = nullptr) {
    auto* call = new InFlight;
    secret_.AddToken(call->context);
    ++in_flight_;
    const ByteBuffer& request = requests_[next_++ % requests_.size()];
    stub_.UnaryCall(&call->context, kMatch, grpc::StubOptions(), &request, &call->reply,
                    [this, call, then = std::move(then), reply](const grpc::Status& status) {
                      STEM_CHECK(status.ok());
                      if (reply != nullptr) *reply = call->reply;
                      then(0);
                      delete call;
                      --in_flight_;
                      in_flight_.notify_all();
                    });
  }
  void Drain() {
    for (uint64_t now = in_flight_; now > 0; now = in_flight_) in_flight_.wait(now);
  }

  const ClusterSecret secret_ = BenchSecret();
  grpc::GenericStub stub_;
  const std::vector<ByteBuffer>& requests_;
  std::atomic<uint64_t> next_{0};
  std::atomic<uint64_t> in_flight_{0};
};

std::vector<ByteBuffer> Requests(const Shape& shape, uint32_t depth) {
  std::vector<ByteBuffer> requests;
  const NamespaceFingerprint space = BenchSpace();
  for (uint32_t i = 0; i < kRequests; ++i) {
    const uint64_t chain = Mix(i) % shape.chains();
    v1::MatchRequest request;
    request.set_namespace_fingerprint(space.bytes().data(), space.bytes().size());
    request.set_keys(PackKeys(KeysAt(chain, 0, std::min(depth, shape.blocks_of(chain)))));
    requests.push_back(Bytes(request.SerializeAsString()));
  }
  return requests;
}

// Waits until the whole shape is there, exact. The reply's size.
size_t ReplyBytes(Caller& directory, const Shape& shape, uint32_t depth) {
  for (;;) {
    const ByteBuffer bytes = directory.Once();
    v1::MatchReply reply;
    ByteBuffer copy = bytes;
    STEM_CHECK((grpc::SerializationTraits<v1::MatchReply>::Deserialize(&copy, &reply).ok()));
    if (reply.matched_blocks() == std::min(depth, shape.chain_blocks) && reply.truth().exact()) return bytes.Length();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

struct Sides {
  std::vector<double> directory, echo, ratio;

  void Take(double mine, double floor) {
    directory.push_back(mine);
    echo.push_back(floor);
    ratio.push_back(mine / floor);
  }
  void Put(Json& row, const std::string& name) const {
    row[name + "_us"] = Median(directory) / 1e3;
    row["echo_" + name + "_us"] = Median(echo) / 1e3;
    row[name + "_ratio"] = Median(ratio);
  }
};

}  // namespace

Json Grpc(const Shape& shape, const GrpcOptions& options) {
  EchoProcess echo_process;
  prctl(PR_SET_TIMERSLACK, 1);
  const std::string folder =
      absl::StrCat(std::filesystem::temp_directory_path().string(), "/directory_bench.", getpid());
  Json row;
  {
    DirectoryProcess directory_process(options.directory_binary, folder, 1000, 5000);
    directory_process.Start();
    const std::vector<ByteBuffer> requests = Requests(shape, options.depth);
    NodeStream node(directory_process.address(), shape);
    Caller directory(directory_process.address(), requests);
    const size_t reply_bytes = ReplyBytes(directory, shape, options.depth);
    Caller echo(echo_process.Start(reply_bytes), requests);
    row["request_bytes"] = requests[0].Length();
    row["reply_bytes"] = reply_bytes;
    const auto quantile = [](Samples& samples, double share) { return samples.At(share); };
    Sides p50, closed_p99, open_p50, open_p99;
    for (uint32_t round = 0; round < 4 * options.rounds; ++round) {
      Samples mine, floor;
      directory.Closed(250, mine);
      echo.Closed(250, floor);
      if (round == 0) continue;  // warm
      p50.Take(quantile(mine, 0.5), quantile(floor, 0.5));
      closed_p99.Take(quantile(mine, 0.99), quantile(floor, 0.99));
    }
    p50.Put(row, "p50");
    closed_p99.Put(row, "p99");
    std::vector<double> saturated, echo_saturated;
    for (uint32_t round = 0; round < 3; ++round) {
      saturated.push_back(directory.Saturate(options.seconds / 2));
      echo_saturated.push_back(echo.Saturate(options.seconds / 2));
    }
    row["saturated_calls/s"] = Median(saturated);
    row["echo_saturated_calls/s"] = Median(echo_saturated);
    const double load = Median(saturated) / 2;
    for (uint32_t round = 0; round < options.rounds; ++round) {
      Samples mine, floor;
      directory.Open(load, options.seconds, mine);
      echo.Open(load, options.seconds, floor);
      open_p50.Take(quantile(mine, 0.5), quantile(floor, 0.5));
      open_p99.Take(quantile(mine, 0.99), quantile(floor, 0.99));
    }
    open_p50.Put(row, "half_load_p50");
    open_p99.Put(row, "half_load_p99");
  }
  std::filesystem::remove_all(folder);
  return row;
}

}  // namespace stem::bench
