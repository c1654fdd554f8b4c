// Which of some replicas should get a prompt: client/example/router.h at work.
//   stem-router-example unix:///run/stemcache/node.sock SECRET_FILE 10.0.0.1:7400,10.0.0.2:7400 node-a node-b < token-ids
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/example/router.h"

namespace {

// What a member of the cluster shows with every call; a router that shall not see the secret is given this line instead.
absl::StatusOr<std::string> MemberToken(const std::string& secret_file) {
  std::ifstream in(secret_file, std::ios::binary);
  const std::string secret{std::istreambuf_iterator<char>(in), {}};
  if (secret.size() < 32) return absl::InvalidArgumentError(absl::StrCat(secret_file, " has no secret of 32 bytes or more"));
  constexpr absl::string_view kPurpose = "stemcache/v1 peer";
  std::array<unsigned char, 32> mac = {};
  unsigned int size = mac.size();
  if (HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
           reinterpret_cast<const unsigned char*>(kPurpose.data()), kPurpose.size(), mac.data(), &size) == nullptr) {
    return absl::InternalError("no HMAC-SHA256");
  }
  return absl::StrCat("Bearer ", absl::BytesToHexString({reinterpret_cast<const char*>(mac.data()), mac.size()}));
}

absl::Status Run(const std::vector<std::string>& arguments) {
  stem::CacheClient::Options options;
  options.node = arguments[0];
  options.client_name = "stem-router-example";
  options.staging_bytes = 0;  // it never publishes
  options.space.model = "example/model";  // as the replicas say: client/example/example.cc
  options.space.kv_dtype = "bf16";
  options.space.layout = "nhd";
  options.space.block_tokens = 16;
  options.space.parts = {stem::Part{.block_bytes = 64 << 10}};
  STEM_ASSIGN(const auto client, stem::CacheClient::Connect(options, absl::Now() + absl::Seconds(5)));
  STEM_ASSIGN(const std::string token, MemberToken(arguments[1]));
  stem::DirectoryStub directories(
      {.requester = "", .authorize = [&](grpc::ClientContext& call) { call.AddMetadata("authorization", token); }, .host = ""});
  STEM_TRY(directories.SetDirectories(absl::StrSplit(arguments[2], ',')));
  const stem::example::Router router(*client, directories, {arguments.begin() + 3, arguments.end()});
  const std::vector<uint32_t> prompt{std::istream_iterator<uint32_t>(std::cin), {}};
  std::printf("%s\n", router.Route(prompt, /*otherwise=*/0, absl::Now() + absl::Milliseconds(50)).c_str());
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) return std::fprintf(stderr, "usage: stem-router-example NODE SECRET_FILE DIRECTORY[,...] CANDIDATE...\n"), 2;
  const absl::Status status = Run({argv + 1, argv + argc});
  if (!status.ok()) std::fprintf(stderr, "stem-router-example: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
