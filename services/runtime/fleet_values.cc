#include "services/runtime/fleet_values.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "google/protobuf/util/json_util.h"
#include "nlohmann/json.hpp"
#include "proto/status.h"
#include "proto/validate.h"
#include "services/runtime/config.h"
#include "services/runtime/listen.h"

namespace stem {
namespace {

using nlohmann::json;

constexpr int kDepthMax = 8;
constexpr size_t kNameBytesMax = 128;
constexpr size_t kUidsMax = 256;
constexpr uint64_t kDramBytesMin = 1ULL << 20;

absl::Status Bad(absl::string_view field, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("field '", field, "' ", why));
}

// A JSON object's fields, each asked for once.
class Fields {
 public:
  // With `known`, others are refused: they are an operator's slip. Without, they are a newer version's.
  static absl::StatusOr<Fields> Parse(absl::string_view text, const std::vector<absl::string_view>& known = {}) {
    bool deep = false;  // dump() and protobuf's parser recurse
    const auto shallow = [&deep](int depth, json::parse_event_t, json&) {
      deep = deep || depth > kDepthMax;
      return !deep;
    };
    Fields fields;
    fields.object_ = json::parse(text.begin(), text.end(), shallow, /*allow_exceptions=*/false);
    if (deep) return absl::InvalidArgumentError(absl::StrCat("the JSON nests deeper than ", kDepthMax));
    if (!fields.object_.is_object()) return absl::InvalidArgumentError("the value is not a JSON object, {...}");
    for (const auto& [name, value] : fields.object_.items()) {
      if (known.empty() || std::find(known.begin(), known.end(), name) != known.end()) continue;
      return Bad(name, absl::StrCat("is not known; known are ", absl::StrJoin(known, ", ")));
    }
    return fields;
  }

  const json* Find(const char* field) const {
    const auto it = object_.find(field);
    return it == object_.end() ? nullptr : &*it;
  }

  // Absent = empty.
  absl::StatusOr<std::string> Text(const char* field, size_t bytes_max) const {
    const json* const value = Find(field);
    if (value == nullptr) return std::string();
    if (!value->is_string() || value->get_ref<const std::string&>().size() > bytes_max) {
      return Bad(field, absl::StrCat("must be a text of at most ", bytes_max, " bytes"));
    }
    return value->get<std::string>();
  }

  // Absent = 0.
  absl::StatusOr<uint64_t> Bytes(const char* field) const {
    STEM_ASSIGN(const std::string text, Text(field, 32));
    if (text.empty()) return 0;
    const absl::StatusOr<uint64_t> bytes = ParseBytes(text);
    if (!bytes.ok()) return Bad(field, bytes.status().message());
    return *bytes;
  }

  absl::StatusOr<std::vector<std::string>> Names(const char* field) const {
    const json* const value = Find(field);
    std::vector<std::string> names;
    if (value == nullptr) return names;
    if (!value->is_array() || value->size() > kFleetEntriesMax) return Bad(field, "must be a list of tenants' names");
    for (const json& each : *value) {
      if (!each.is_string() || each.get_ref<const std::string&>().empty()) return Bad(field, "must hold names only");
      names.push_back(each.get<std::string>());
    }
    return names;
  }

 private:
  json object_;
};

absl::StatusOr<uint64_t> DramBytes(const Fields& fields) {
  STEM_ASSIGN(const uint64_t bytes, fields.Bytes("dram"));
  if (bytes < kDramBytesMin) return Bad("dram", "must be a size of at least 1MiB, e.g. \"4GiB\"");
  return bytes;
}

template <typename Map>
absl::Status CheckRoom(const Map& map, absl::string_view name, size_t max) {
  if (map.size() < max || map.count(std::string(name)) > 0) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("there are ", max, " of its kind, the limit"));
}

// Forgets what `present` does not name.
template <typename Map>
void KeepPresent(Map& map, const std::set<std::string>& present, absl::string_view folder) {
  for (auto it = map.begin(); it != map.end();) {
    it = present.count(absl::StrCat(folder, it->first)) > 0 ? std::next(it) : map.erase(it);
  }
}

}  // namespace

std::string NodeKey(absl::string_view prefix, absl::string_view name) { return absl::StrCat(prefix, "/nodes/", name); }

std::string DirectoryKey(absl::string_view prefix, absl::string_view address) {
  return absl::StrCat(prefix, "/directories/", address);
}

std::string FormatMember(const FleetMember& member) {
  const json value = {{"incarnation", absl::StrFormat("%016x", member.incarnation)},
                      {"address", member.address},
                      {"host_id", member.host_id},
                      {"zone", member.zone}};
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

absl::StatusOr<FleetMember> ParseMember(absl::string_view name, absl::string_view text) {
  STEM_ASSIGN(const Fields fields, Fields::Parse(text));
  FleetMember member{.name = std::string(name)};
  STEM_ASSIGN(const std::string incarnation, fields.Text("incarnation", 16));
  if (incarnation.size() != 16 || !absl::SimpleHexAtoi(incarnation, &member.incarnation) || member.incarnation == 0) {
    return Bad("incarnation", absl::StrCat("is '", incarnation, "'; it must have 16 hexadecimal digits, not all 0"));
  }
  STEM_ASSIGN(member.address, fields.Text("address", 256));
  const absl::StatusOr<HostPort> address = ParseHostPort(member.address);
  if (!address.ok()) return Bad("address", address.status().message());
  if (address->port == 0) return Bad("address", absl::StrCat("is '", member.address, "'; its port must be above 0"));
  STEM_ASSIGN(member.host_id, fields.Text("host_id", kNameBytesMax));
  STEM_ASSIGN(member.zone, fields.Text("zone", kNameBytesMax));
  return member;
}

absl::StatusOr<FleetTenant> ParseTenant(absl::string_view text) {
  STEM_ASSIGN(const Fields fields, Fields::Parse(text, {"uids", "dram", "ssd"}));
  FleetTenant tenant;
  const json* const uids = fields.Find("uids");
  if (uids == nullptr || !uids->is_array() || uids->empty() || uids->size() > kUidsMax) {
    return Bad("uids", absl::StrCat("must be a list of 1 to ", kUidsMax, " user ids, e.g. [1000, 1001]"));
  }
  for (const json& uid : *uids) {
    if (!uid.is_number_unsigned() || uid.get<uint64_t>() >= UINT32_MAX) {
      return Bad("uids", absl::StrCat("holds ", uid.dump(), ", which is not a user id"));
    }
    tenant.uids.push_back(uid.get<uid_t>());
  }
  STEM_ASSIGN(tenant.dram_bytes, DramBytes(fields));
  STEM_ASSIGN(tenant.ssd_bytes, fields.Bytes("ssd"));
  return tenant;
}

absl::StatusOr<FleetSharedGroup> ParseSharedGroup(absl::string_view text) {
  STEM_ASSIGN(const Fields fields, Fields::Parse(text, {"readers", "publishers", "dram", "hash"}));
  FleetSharedGroup group;
  STEM_ASSIGN(group.readers, fields.Names("readers"));
  STEM_ASSIGN(group.publishers, fields.Names("publishers"));
  if (group.readers.empty() || group.publishers.empty()) {
    return Bad(group.readers.empty() ? "readers" : "publishers", "is empty; name at least one tenant");
  }
  STEM_ASSIGN(group.dram_bytes, DramBytes(fields));
  STEM_ASSIGN(const std::string hash, fields.Text("hash", 16));
  if (hash == "xxh3") {
    group.hash_scheme = HashScheme::kXxh3;
  } else if (!hash.empty() && hash != "sha256") {
    return Bad("hash", absl::StrCat("is '", hash, "'; use sha256, or xxh3 where the tenants trust each other"));
  }
  return group;
}

absl::StatusOr<FleetNamespace> ParseNamespace(absl::string_view text) {
  STEM_ASSIGN(const Fields fields, Fields::Parse(text, {"owner", "spec"}));
  FleetNamespace space;
  STEM_ASSIGN(space.owner, fields.Text("owner", kNameBytesMax));
  if (space.owner.empty()) return Bad("owner", "is not set; name a tenant or a shared group");
  const json* const spec = fields.Find("spec");
  if (spec == nullptr || !spec->is_object()) return Bad("spec", "must be an object, a NamespaceSpec as protobuf's JSON");
  v1::NamespaceSpec message;
  const auto parsed = google::protobuf::util::JsonStringToMessage(spec->dump(), &message);
  if (!parsed.ok()) {
    return Bad("spec", absl::StrCat("is no NamespaceSpec: ",
                                    absl::string_view(parsed.message().data(), parsed.message().size())));
  }
  absl::StatusOr<NamespaceSpec> valid = ValidateSpec(message);
  if (!valid.ok()) return Bad("spec", absl::StrCat("will not do: ", valid.status().message()));
  space.spec = *std::move(valid);
  return space;
}

absl::StatusOr<ClusterSecret> ParseSecret(absl::string_view text) {
  STEM_ASSIGN(const Fields fields, Fields::Parse(text, {"hex"}));
  STEM_ASSIGN(const std::string hex, fields.Text("hex", 2 * kSecretBytesMax));
  const bool digits = std::all_of(hex.begin(), hex.end(), [](char c) { return absl::ascii_isxdigit(static_cast<unsigned char>(c)); });
  if (hex.empty() || hex.size() % 2 != 0 || !digits) {  // never repeated in an error: it is a secret
    return Bad("hex", "must have an even number of hexadecimal digits, e.g. from: openssl rand -hex 32");
  }
  const std::string bytes = absl::HexStringToBytes(hex);
  return ClusterSecret::FromBytes(std::vector<uint8_t>(bytes.begin(), bytes.end()));
}

absl::StatusOr<FleetState::Place> FleetState::PlaceOf(absl::string_view key) const {
  absl::string_view rest = key;
  if (!absl::ConsumePrefix(&rest, prefix_) || !absl::ConsumePrefix(&rest, "/")) {
    return absl::InvalidArgumentError(absl::StrCat("the key does not begin with ", prefix_, "/"));
  }
  const size_t slash = rest.find('/');
  if (slash == absl::string_view::npos) return Place{.kind = rest, .name = ""};
  const Place place{.kind = rest.substr(0, slash), .name = rest.substr(slash + 1)};
  if (place.name.empty() || place.name.size() > kNameBytesMax || absl::StrContains(place.name, '/')) {
    return absl::InvalidArgumentError(
        absl::StrCat("the key's name '", place.name, "' must have 1 to ", kNameBytesMax, " bytes and no '/'"));
  }
  return place;
}

absl::Status FleetState::Set(absl::string_view key, absl::string_view value) {
  STEM_ASSIGN(const Place place, PlaceOf(key));
  if (value.size() > kFleetValueBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("the value has ", value.size(), " bytes; it may have ", kFleetValueBytesMax));
  }
  if (place.kind == "nodes" || place.kind == "directories") return SetMember(place, value);
  if (place.kind == "tenants") return SetTenant(place, value);
  if (place.kind == "shared") return SetSharedGroup(place, value);
  if (place.kind == "namespaces") {
    STEM_TRY(CheckRoom(now_.namespaces, place.name, kFleetEntriesMax));
    STEM_ASSIGN(now_.namespaces[std::string(place.name)], ParseNamespace(value));
    return absl::OkStatus();
  }
  if (place.kind == "secret" && place.name.empty()) {
    STEM_ASSIGN(ClusterSecret secret, ParseSecret(value));
    now_.secret = std::make_shared<const ClusterSecret>(std::move(secret));
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("'", place.kind, "' is no kind of key; kinds are nodes/, directories/, tenants/, ",
                                                 "shared/, namespaces/ and secret"));
}

absl::Status FleetState::SetMember(const Place& place, absl::string_view value) {
  const bool node = place.kind == "nodes";
  std::map<std::string, FleetMember>& members = node ? now_.nodes : directories_;
  STEM_TRY(CheckRoom(members, place.name, node ? kFleetNodesMax : kFleetDirectoriesMax));
  STEM_ASSIGN(FleetMember member, ParseMember(place.name, value));
  if (!node && member.address != place.name) {
    return Bad("address", absl::StrCat("is '", member.address, "'; a directory's key ends with its address"));
  }
  members[std::string(place.name)] = std::move(member);
  return absl::OkStatus();
}

absl::Status FleetState::SetTenant(const Place& place, absl::string_view value) {
  STEM_TRY(CheckRoom(now_.tenants, place.name, kFleetEntriesMax));
  STEM_ASSIGN(FleetTenant tenant, ParseTenant(value));
  if (now_.shared_groups.count(std::string(place.name)) > 0) {
    return absl::InvalidArgumentError("a shared group has this name; tenants and shared groups need names of their own");
  }
  for (const auto& [name, other] : now_.tenants) {
    if (name == place.name) continue;
    for (const uid_t uid : tenant.uids) {
      if (std::find(other.uids.begin(), other.uids.end(), uid) == other.uids.end()) continue;
      return Bad("uids", absl::StrCat("holds ", uid, ", which belongs to tenant '", name, "'; a user belongs to one tenant"));
    }
  }
  now_.tenants[std::string(place.name)] = std::move(tenant);
  return absl::OkStatus();
}

absl::Status FleetState::SetSharedGroup(const Place& place, absl::string_view value) {
  STEM_TRY(CheckRoom(now_.shared_groups, place.name, kFleetEntriesMax));
  STEM_ASSIGN(FleetSharedGroup group, ParseSharedGroup(value));
  if (now_.tenants.count(std::string(place.name)) > 0) {
    return absl::InvalidArgumentError("a tenant has this name; tenants and shared groups need names of their own");
  }
  now_.shared_groups[std::string(place.name)] = std::move(group);
  return absl::OkStatus();
}

void FleetState::Remove(absl::string_view key) {
  refused_.erase(std::string(key));
  const absl::StatusOr<Place> place = PlaceOf(key);
  if (!place.ok()) return;
  const std::string name(place->name);
  if (place->kind == "nodes") now_.nodes.erase(name);
  if (place->kind == "directories") directories_.erase(name);
  if (place->kind == "tenants") now_.tenants.erase(name);
  if (place->kind == "shared") now_.shared_groups.erase(name);
  if (place->kind == "namespaces") now_.namespaces.erase(name);
  if (place->kind == "secret" && name.empty()) now_.secret = nullptr;
}

bool FleetState::SetOrRefuse(const std::string& key, const std::string& value) {
  const absl::Status set = Set(key, value);
  if (set.ok()) {
    refused_.erase(key);
    return false;
  }
  if (refused_.size() >= kFleetEntriesMax && refused_.count(key) == 0) return false;  // enough has been said
  Refused& refused = refused_[key];
  const bool known = refused.value == value && refused.why == set.message();
  refused = {.value = value, .why = std::string(set.message())};
  return !known;
}

std::vector<FleetState::Refusal> FleetState::Settle(const std::vector<std::string>& news) {
  // What a refusal was for may be gone now: a user that another tenant had.
  const std::map<std::string, Refused> again = refused_;
  for (const auto& [key, refused] : again) {
    if (Set(key, refused.value).ok()) refused_.erase(key);
  }
  // A directory that is registered no longer may well be alive: when none is left, it is likelier that all of them lost etcd.
  if (!directories_.empty()) {
    now_.directories.clear();
    for (const auto& [address, member] : directories_) now_.directories.push_back(member);
  }
  std::vector<Refusal> refusals;
  for (const std::string& key : news) {
    if (const auto it = refused_.find(key); it != refused_.end()) refusals.push_back({.key = key, .why = it->second.why});
  }
  return refusals;
}

std::vector<FleetState::Refusal> FleetState::Reset(const EtcdPicture& picture) {
  std::set<std::string> present;
  for (const EtcdEntry& entry : picture.entries) present.insert(entry.key);
  KeepPresent(now_.nodes, present, absl::StrCat(prefix_, "/nodes/"));
  KeepPresent(directories_, present, absl::StrCat(prefix_, "/directories/"));
  KeepPresent(now_.tenants, present, absl::StrCat(prefix_, "/tenants/"));
  KeepPresent(now_.shared_groups, present, absl::StrCat(prefix_, "/shared/"));
  KeepPresent(now_.namespaces, present, absl::StrCat(prefix_, "/namespaces/"));
  KeepPresent(refused_, present, "");
  if (present.count(absl::StrCat(prefix_, "/secret")) == 0) now_.secret = nullptr;
  std::vector<std::string> news;
  for (const EtcdEntry& entry : picture.entries) {
    if (SetOrRefuse(entry.key, entry.value)) news.push_back(entry.key);
  }
  now_.revision = picture.revision;
  return Settle(news);
}

std::vector<FleetState::Refusal> FleetState::Apply(const EtcdChanges& changes) {
  std::vector<std::string> news;
  for (const EtcdChanges::Change& change : changes.changes) {
    if (!change.value.has_value()) {
      Remove(change.key);
    } else if (SetOrRefuse(change.key, *change.value)) {
      news.push_back(change.key);
    }
  }
  now_.revision = std::max(now_.revision, changes.revision);
  return Settle(news);
}

}  // namespace stem
