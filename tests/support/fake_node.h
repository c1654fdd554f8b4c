// A node that does what a test says: a real gRPC server on a Unix socket, a real attach socket and real memfds, but one
// arena, no index and no peers. By default it behaves (holds what it was given, takes commits); a test can step in
// front of any message, write into its slots, and let it die.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "proto/mutex.h"
#include "proto/namespace_spec.h"
#include "proto/validate.h"
#include "stemcache/v1/node.grpc.pb.h"
#include "storage/pool/arena.h"
#include "storage/pool/slot.h"
#include "storage/pool/slot_map.h"

namespace stem::testing {

// A namespace with one part of `block_bytes`, or several (ids 0, 2, 4, ...; part i is `block_bytes` + i * 64 bytes).
NamespaceSpec SmallSpec(uint64_t block_bytes, uint32_t parts = 1);

class FakeNode final : public v1::Node::Service {
 public:
  struct Options {
    NamespaceSpec spec;
    uint64_t incarnation = 1;
    uint32_t slots = 64;
    std::string trust_group = "tenant";
    std::function<void(v1::AttachReply&)> alter_reply = nullptr;  // before it is sent
    bool silent_attach = false;                                   // accepts and never answers
    bool show_slots = false;                                      // by a slot map
  };

  // Listens on dir/node.sock and dir/node.sock.attach.
  FakeNode(const std::string& dir, Options options);
  // Dies: sockets and streams end at once.
  ~FakeNode() override;

  std::string target() const { return "unix://" + path_; }
  NamespaceFingerprint space() const { return space_; }
  const Root& root() const { return root_; }

  // Puts a payload into the next free slot, as a publish would; returns the slot.
  uint32_t Hold(const BlockKey& part_key, std::span<const std::byte> payload);
  // Takes it out of the slot map, as an eviction would.
  void Unshow(uint32_t index);
  SlotView<std::byte> slot(uint32_t index) const;
  uint64_t generation(uint32_t index) const { return slot(index).header().generation; }
  // Of the client that attached last.
  std::span<std::byte> staging() const;

  // Steps in front of every message but Open: returns true when it dealt with the message; `reply`, if set, is sent.
  using Script = std::function<bool(const v1::ClientMessage& message, v1::NodeMessage& reply)>;
  void SetScript(Script script);
  // Positions from here on are promised, but not ready.
  void LandFrom(uint32_t position) { land_from_ = position; }
  // Sends to the session that opened last.
  void Send(const v1::NodeMessage& message);
  // A run of consecutive positions in consecutive slots.
  v1::SlotRun Run(uint32_t first, uint32_t slot, uint32_t count, v1::Source source) const;

  // Waits for the next message of this kind that was not yet taken. Fails the test after 10 s.
  v1::ClientMessage Take(v1::ClientMessage::MessageCase kind);
  size_t sessions() const;

  // Ends the sessions' attach sockets, as a node that ends its sessions would; lives on.
  void HangUp();
  // Stops to read what clients write.
  void StopReading() { reading_ = false; }

 private:
  grpc::Status Session(grpc::ServerContext* context,
                       grpc::ServerReaderWriter<v1::NodeMessage, v1::ClientMessage>* stream) override;
  void AcceptLoop();
  void AttachOne(int socket);
  void Behave(const v1::ClientMessage& message, v1::NodeMessage& reply);
  void Acquire(const v1::ClientMessage& message, v1::NodeMessage& reply);
  void Reserve(const v1::ClientMessage& message, v1::NodeMessage& reply);
  void Commit(const v1::ClientMessage& message, v1::NodeMessage& reply);
  uint32_t HoldLocked(const BlockKey& part_key, std::span<const std::byte> payload)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string path_;
  const Options options_;
  const NamespaceFingerprint space_;
  const Root root_;
  const SlotGeometry geometry_;
  Arena arena_;
  Arena slot_map_;
  UniqueFd listener_;
  std::thread acceptor_;
  std::unique_ptr<grpc::Server> server_;
  std::atomic<bool> dying_ = false;
  std::atomic<bool> reading_ = true;
  std::atomic<uint32_t> land_from_ = UINT32_MAX;

  mutable Mutex mutex_;
  CondVar changed_;
  SlotMapWriter shown_ ABSL_GUARDED_BY(mutex_);
  Script script_ ABSL_GUARDED_BY(mutex_);
  std::vector<UniqueFd> attached_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<Arena>> stagings_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<BlockKey, uint32_t> held_ ABSL_GUARDED_BY(mutex_);  // part key -> slot
  uint32_t next_slot_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<v1::ClientMessage> messages_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<uint64_t, v1::Reserve> reserves_ ABSL_GUARDED_BY(mutex_);
  grpc::ServerReaderWriter<v1::NodeMessage, v1::ClientMessage>* stream_ ABSL_GUARDED_BY(mutex_) = nullptr;
  size_t sessions_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace stem::testing
