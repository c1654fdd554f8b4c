#include "tests/support/fake_node.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/checksum.h"
#include "proto/check.h"
#include "proto/probe.h"

namespace stem::testing {
namespace {

constexpr std::array<uint8_t, 32> kSecret = {1, 2, 3};

UniqueFd Listen(const std::string& path) {
  UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  STEM_CHECK(path.size() < sizeof(address.sun_path));
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  unlink(path.c_str());
  STEM_CHECK(bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  STEM_CHECK(listen(fd.get(), 16) == 0);
  return fd;
}

void SendWithDescriptors(int socket, const std::string& bytes, const std::vector<int>& descriptors) {
  alignas(cmsghdr) char control[CMSG_SPACE(16 * sizeof(int))] = {};
  iovec part{.iov_base = const_cast<char*>(bytes.data()), .iov_len = bytes.size()};
  msghdr header = {};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (!descriptors.empty()) {
    header.msg_control = control;
    header.msg_controllen = CMSG_SPACE(descriptors.size() * sizeof(int));
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(descriptors.size() * sizeof(int));
    std::memcpy(CMSG_DATA(rights), descriptors.data(), descriptors.size() * sizeof(int));
  }
  sendmsg(socket, &header, MSG_NOSIGNAL);
}

}  // namespace

NamespaceSpec SmallSpec(uint64_t block_bytes, uint32_t parts) {
  NamespaceSpec spec{.model = "test/model",
                     .revision = "r1",
                     .weights_digest = {},
                     .kv_dtype = "opaque",
                     .scale_scheme = {},
                     .layout = "opaque",
                     .instruction_set = {},
                     .block_tokens = 16,
                     .hash_scheme = HashScheme::kXxh3,
                     .parts = {},
                     .tokenizer_digest = {},
                     .chat_template_digest = {},
                     .spill_encoding = SpillEncoding::kExact};
  for (uint32_t i = 0; i < parts; ++i) spec.parts.push_back(Part{.id = 2 * i, .block_bytes = block_bytes + i * 64});
  return spec;
}

FakeNode::FakeNode(const std::string& dir, Options options)
    : path_(absl::StrCat(dir, "/node.sock")),
      options_(std::move(options)),
      space_(FingerprintOf(options_.spec, options_.trust_group)),
      root_(RootOf(kSecret, options_.trust_group, space_)),
      geometry_(SlotGeometry::For(options_.spec.block_bytes_max())),
      arena_(*Arena::Create("fake-arena", geometry_.slot_bytes * options_.slots, Arena::Sharing::kReadOnlyForOthers)),
      slot_map_(*Arena::Create("fake-slot-map", SlotMapLayout(options_.slots).bytes(), Arena::Sharing::kReadOnlyForOthers)),
      listener_(Listen(absl::StrCat(path_, ".attach"))) {
  if (options_.show_slots) shown_ = SlotMapWriter(slot_map_.bytes(), options_.slots);
  unlink(path_.c_str());
  grpc::ServerBuilder builder;
  builder.AddListeningPort(absl::StrCat("unix:", path_), grpc::InsecureServerCredentials());
  builder.SetMaxReceiveMessageSize(kMessageBytesMax);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
  STEM_CHECK(server_ != nullptr);
  acceptor_ = std::thread([this] { AcceptLoop(); });
}

FakeNode::~FakeNode() {
  dying_ = true;
  shutdown(listener_.get(), SHUT_RDWR);
  acceptor_.join();
  HangUp();
  {
    MutexLock lock(mutex_);
    changed_.NotifyAll();
  }
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
  MutexLock lock(mutex_);  // what the handlers did is seen here through our lock, whatever gRPC is built with
}

void FakeNode::HangUp() {
  MutexLock lock(mutex_);
  attached_.clear();
}

void FakeNode::AcceptLoop() {
  while (!dying_) {
    UniqueFd client(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!client.valid()) continue;
    if (!options_.silent_attach) AttachOne(client.get());
    MutexLock lock(mutex_);
    attached_.push_back(std::move(client));
  }
}

void FakeNode::AttachOne(int socket) {
  std::vector<char> bytes(64 << 10);
  const ssize_t size = recv(socket, bytes.data(), bytes.size(), 0);
  v1::AttachRequest request;
  if (size <= 0 || !request.ParseFromArray(bytes.data(), static_cast<int>(size))) return;
  v1::AttachReply reply;
  const absl::StatusOr<AttachCall> call = ValidateAttach(request);
  std::vector<int> descriptors;
  if (!call.ok()) {
    reply.set_code(static_cast<uint32_t>(call.status().code()));
    reply.set_message(std::string(call.status().message()));
  } else {
    reply.set_session_token(std::string(16, 't'));
    reply.set_namespace_fingerprint(std::string(space_.bytes()));
    reply.set_root(std::string(root_.begin(), root_.end()));
    const ProbeKey probe_key = ProbeKeyOf(kSecret, options_.trust_group);
    reply.set_probe_key(std::string(probe_key.begin(), probe_key.end()));
    reply.set_node("fake");
    reply.set_incarnation(options_.incarnation);
    reply.set_staging_bytes(call->staging_bytes);
    v1::ArenaMap* map = reply.add_arenas();
    map->set_arena(7);
    map->set_bytes(arena_.bytes().size());
    map->set_slot_bytes(geometry_.slot_bytes);
    map->set_payload_offset(geometry_.payload_offset);
    if (call->staging_bytes > 0) {
      auto staging =
          std::make_unique<Arena>(*Arena::Create("fake-staging", call->staging_bytes, Arena::Sharing::kWritableByOne));
      descriptors.push_back(staging->fd());
      MutexLock lock(mutex_);
      stagings_.push_back(std::move(staging));
    }
    descriptors.push_back(arena_.fd());
    if (options_.show_slots) {
      map->set_slot_map_bytes(slot_map_.bytes().size());
      descriptors.push_back(slot_map_.fd());
    }
    if (options_.alter_reply) options_.alter_reply(reply);
    if (reply.code() != 0) descriptors.clear();
  }
  SendWithDescriptors(socket, reply.SerializeAsString(), descriptors);
}

grpc::Status FakeNode::Session(grpc::ServerContext*,
                               grpc::ServerReaderWriter<v1::NodeMessage, v1::ClientMessage>* stream) {
  v1::ClientMessage message;
  if (!stream->Read(&message) || message.open().session_token() != std::string(16, 't')) {
    return {grpc::StatusCode::UNAUTHENTICATED, "no session has this token"};
  }
  v1::NodeMessage opened;
  opened.set_request_id(message.request_id());
  opened.mutable_opened()->set_version("fake");
  {
    MutexLock lock(mutex_);
    stream_ = stream;
    ++sessions_;
    stream->Write(opened);
  }
  while (stream->Read(&message) && reading_) {
    v1::NodeMessage reply;
    Script script;
    {
      MutexLock lock(mutex_);
      script = script_;
    }
    if (!script || !script(message, reply)) Behave(message, reply);
    MutexLock lock(mutex_);
    messages_.push_back(message);
    changed_.NotifyAll();
    if (reply.message_case() == v1::NodeMessage::MESSAGE_NOT_SET && reply.code() == 0) continue;
    if (reply.request_id() == 0) reply.set_request_id(message.request_id());
    stream->Write(reply);
  }
  MutexLock lock(mutex_);
  while (!reading_ && !dying_) changed_.Wait(mutex_);
  if (stream_ == stream) stream_ = nullptr;
  return grpc::Status::OK;
}

void FakeNode::SetScript(Script script) {
  MutexLock lock(mutex_);
  script_ = std::move(script);
}

void FakeNode::Send(const v1::NodeMessage& message) {
  MutexLock lock(mutex_);
  STEM_CHECK(stream_ != nullptr);
  stream_->Write(message);
}

v1::SlotRun FakeNode::Run(uint32_t first, uint32_t slot_index, uint32_t count, v1::Source source) const {
  v1::SlotRun run;
  run.set_first(first);
  run.set_arena(7);
  run.set_source(source);
  for (uint32_t i = 0; i < count; ++i) {
    run.add_slots(slot_index + i);
    run.add_generations(generation(slot_index + i));
  }
  return run;
}

v1::ClientMessage FakeNode::Take(v1::ClientMessage::MessageCase kind) {
  MutexLock lock(mutex_);
  const absl::Time give_up = absl::Now() + absl::Seconds(10);
  while (true) {
    for (auto message = messages_.begin(); message != messages_.end(); ++message) {
      if (message->message_case() != kind) continue;
      v1::ClientMessage taken = *message;
      messages_.erase(message);
      return taken;
    }
    const absl::Duration left = give_up - absl::Now();
    STEM_CHECK(left > absl::ZeroDuration() && "the client sent no such message");
    changed_.WaitFor(mutex_, left);
  }
}

size_t FakeNode::sessions() const {
  MutexLock lock(mutex_);
  return sessions_;
}

uint32_t FakeNode::Hold(const BlockKey& part_key, std::span<const std::byte> payload) {
  MutexLock lock(mutex_);
  return HoldLocked(part_key, payload);
}

uint32_t FakeNode::HoldLocked(const BlockKey& part_key, std::span<const std::byte> payload) {
  const uint32_t index = next_slot_++;
  STEM_CHECK(index < options_.slots);
  SlotHeader header{.name = {.space = space_, .key = part_key}, .generation = 100 + index, .length = payload.size()};
  header.digest = CopyAndDigest(slot(index).payload(payload.size()), payload, header.name,
                                slot(index).chunk_hashes(ChunkCount(payload.size())));
  slot(index).set_header(header);
  held_.emplace(part_key, index);
  shown_.Enter(header.name, index, header.generation);
  return index;
}

void FakeNode::Unshow(uint32_t index) {
  MutexLock lock(mutex_);
  shown_.Leave(slot(index).header().name, index);
}

SlotView<std::byte> FakeNode::slot(uint32_t index) const {
  return {arena_.bytes().subspan(index * geometry_.slot_bytes, geometry_.slot_bytes), geometry_};
}

std::span<std::byte> FakeNode::staging() const {
  MutexLock lock(mutex_);
  return stagings_.back()->bytes();
}

void FakeNode::Behave(const v1::ClientMessage& message, v1::NodeMessage& reply) {
  if (message.has_acquire()) Acquire(message, reply);
  if (message.has_reserve()) Reserve(message, reply);
  if (message.has_commit()) Commit(message, reply);
}

void FakeNode::Acquire(const v1::ClientMessage& message, v1::NodeMessage& reply) {
  const ChainCall call = *ValidateAcquire(message.acquire(), options_.spec);
  MutexLock lock(mutex_);
  v1::Acquired* acquired = reply.mutable_acquired();
  uint32_t matched = 0;
  for (bool whole = true; whole && matched < call.keys.size(); matched += whole ? 1 : 0) {
    for (uint32_t part : call.parts) whole = whole && held_.contains(PartKey(call.keys[matched], part));
  }
  for (uint32_t position = 0; position < matched * call.parts.size() && position < land_from_; ++position) {
    const BlockKey key = PartKey(call.keys[position / call.parts.size()], call.parts[position % call.parts.size()]);
    *acquired->add_ready() = Run(position, held_.at(key), 1, v1::SOURCE_LOCAL_DRAM);
  }
  acquired->set_matched_blocks(matched);
  acquired->mutable_truth()->set_exact(true);
  if (matched == call.keys.size()) return;
  v1::Miss* miss = acquired->add_misses();
  miss->set_first(matched);
  miss->set_count(static_cast<uint32_t>(call.keys.size()) - matched);
  miss->set_cause(v1::MISS_CAUSE_COLD);
}

void FakeNode::Reserve(const v1::ClientMessage& message, v1::NodeMessage& reply) {
  const ReserveCall call = *ValidateReserve(message.reserve(), options_.spec);
  MutexLock lock(mutex_);
  reserves_.emplace(message.request_id(), message.reserve());
  v1::Reserved* reserved = reply.mutable_reserved();
  for (uint32_t position = 0; position < call.chain.keys.size() * call.chain.parts.size(); ++position) {
    const BlockKey key = PartKey(call.chain.keys[position / call.chain.parts.size()],
                                 call.chain.parts[position % call.chain.parts.size()]);
    if (held_.contains(key)) {
      reserved->set_held(reserved->held() + 1);
      continue;
    }
    v1::Reserved::Run* run = reserved->add_wanted();
    run->set_first(position);
    run->set_count(1);
  }
}

void FakeNode::Commit(const v1::ClientMessage& message, v1::NodeMessage& reply) {
  STEM_CHECK(ValidateCommit(message.commit()).ok());
  MutexLock lock(mutex_);
  const ReserveCall call = *ValidateReserve(reserves_.at(message.commit().reserve_id()), options_.spec);
  for (int i = 0; i < message.commit().positions_size(); ++i) {
    const uint32_t position = message.commit().positions(i);
    const uint32_t part = call.chain.parts[position % call.chain.parts.size()];
    HoldLocked(
        PartKey(call.chain.keys[position / call.chain.parts.size()], part),
        stagings_.back()->bytes().subspan(message.commit().staging_offsets(i), options_.spec.part(part)->block_bytes));
  }
  reply.mutable_committed()->set_committed(static_cast<uint32_t>(message.commit().positions_size()));
}

}  // namespace stem::testing
