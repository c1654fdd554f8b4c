// How far attention's output moves when a prompt's keys and values are pruned to a budget by the retention of kernels/retention.h: window,
// StreamingLLM, H2O. Input: what tests/bench/gemma_attention.py wrote of a real model's full-attention layers.
//   retention_error FILE
// The prompt is all tokens but the last 64; it is pruned once, then those 64 attend to what is left and to each other. Printed as JSON: for
// each policy and share of the prompt kept the relative error |pruned - full| / |full| of a head's output, mean and 95th percentile over
// layers, heads and the 64 tokens, and the share of full attention that was kept.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "kernels/retention.h"

namespace stem {
namespace {

constexpr uint32_t kDecoded = 64, kSinks = 4;
constexpr double kShares[] = {0.5, 0.25, 0.125};

struct Layer {
  std::vector<float> queries, keys, values;  // [heads][tokens][dims]
};

struct Dump {
  uint32_t layers = 0, heads = 0, key_heads = 0, tokens = 0, dims = 0;
  std::vector<Layer> layer;
};

bool Read(const char* path, Dump* dump) {
  std::FILE* const file = std::fopen(path, "re");
  if (file == nullptr) return false;
  uint32_t head[5] = {};
  bool good = std::fread(head, sizeof(head), 1, file) == 1;
  *dump = {head[0], head[1], head[2], head[3], head[4], {}};
  good = good && dump->layers <= 256 && dump->heads <= 1024 && dump->key_heads >= 1 && dump->key_heads <= dump->heads &&
         dump->tokens > 2 * kDecoded && dump->tokens <= 1 << 16 && dump->dims >= 1 && dump->dims <= 1024;
  for (uint32_t i = 0; good && i < dump->layers; ++i) {
    Layer layer;
    for (auto* const part : {&layer.queries, &layer.keys, &layer.values}) {
      part->resize(size_t{part == &layer.queries ? dump->heads : dump->key_heads} * dump->tokens * dump->dims);
      good = good && std::fread(part->data(), sizeof(float), part->size(), file) == part->size();
    }
    dump->layer.push_back(std::move(layer));
  }
  std::fclose(file);
  return good;
}

// Softmax weights of one query over the tokens of `kept`.
void Weights(const Dump& dump, const float* query, const float* keys, const std::vector<uint32_t>& kept, std::vector<float>* weights) {
  const float scale = 1 / std::sqrt(static_cast<float>(dump.dims));
  weights->resize(kept.size());
  float most = -INFINITY;
  for (size_t i = 0; i < kept.size(); ++i) {
    const float* const key = keys + size_t{kept[i]} * dump.dims;
    float dot = 0;
    for (uint32_t d = 0; d < dump.dims; ++d) dot += query[d] * key[d];
    most = std::max(most, (*weights)[i] = dot * scale);
  }
  float sum = 0;
  for (float& weight : *weights) sum += weight = std::exp(weight - most);
  for (float& weight : *weights) weight /= sum;
}

std::vector<float> Output(const Dump& dump, const float* values, const std::vector<uint32_t>& kept, const std::vector<float>& weights) {
  std::vector<float> output(dump.dims);
  for (size_t i = 0; i < kept.size(); ++i) {
    const float* const value = values + size_t{kept[i]} * dump.dims;
    for (uint32_t d = 0; d < dump.dims; ++d) output[d] += weights[i] * value[d];
  }
  return output;
}

std::vector<uint32_t> All(uint32_t tokens) { return KeepWindow(tokens, tokens); }

struct Sums {
  std::vector<double> errors;
  double mass = 0;
};

class Measurement {
 public:
  explicit Measurement(const Dump& dump) : dump_(dump), prompt_(dump.tokens - kDecoded) {}

  nlohmann::json Run() {
    for (const Layer& layer : dump_.layer) {
      for (uint32_t key_head = 0; key_head < dump_.key_heads; ++key_head) KeyHead(layer, key_head);
    }
    nlohmann::json rows = nlohmann::json::array();
    for (auto& [name, sums] : sums_) {
      std::sort(sums.errors.begin(), sums.errors.end());
      double mean = 0;
      for (const double error : sums.errors) mean += error / static_cast<double>(sums.errors.size());
      rows.push_back({{"policy", name.first}, {"kept_share", name.second}, {"error_mean", mean},
                      {"error_p95", sums.errors[sums.errors.size() * 95 / 100]},
                      {"attention_kept", sums.mass / static_cast<double>(sums.errors.size())}});
    }
    return {{"layers", dump_.layers}, {"heads", dump_.heads}, {"prompt_tokens", prompt_}, {"decoded_tokens", kDecoded}, {"rows", rows}};
  }

 private:
  // Heads of queries that read this head of keys; H2O's scores are summed over them, as their keys are pruned together.
  void KeyHead(const Layer& layer, uint32_t key_head) {
    const size_t plane = size_t{dump_.tokens} * dump_.dims;
    const float* const keys = layer.keys.data() + key_head * plane;
    const float* const values = layer.values.data() + key_head * plane;
    const uint32_t group = dump_.heads / dump_.key_heads;
    std::vector<float> scores(prompt_), weights;
    for (uint32_t head = key_head * group; head < (key_head + 1) * group; ++head) {
      for (uint32_t at = 0; at < prompt_; ++at) {
        Weights(dump_, layer.queries.data() + head * plane + size_t{at} * dump_.dims, keys, All(at + 1), &weights);
        for (uint32_t i = 0; i <= at; ++i) scores[i] += weights[i];
      }
    }
    for (const double share : kShares) {
      const auto budget = static_cast<uint32_t>(share * prompt_);
      const std::pair<const char*, std::vector<uint32_t>> kept[] = {{"window", KeepWindow(prompt_, budget)},
                                                                    {"streaming", KeepSinksAndWindow(prompt_, kSinks, budget - kSinks)},
                                                                    {"h2o", KeepHeavyHitters(scores, budget / 2, budget - budget / 2)}};
      for (const auto& [policy, tokens] : kept) {
        for (uint32_t head = key_head * group; head < (key_head + 1) * group; ++head) {
          Compare(layer.queries.data() + head * plane, keys, values, tokens, &sums_[{policy, share}]);
        }
      }
    }
  }

  void Compare(const float* queries, const float* keys, const float* values, std::vector<uint32_t> kept, Sums* sums) {
    std::vector<float> full_weights, weights;
    for (uint32_t at = prompt_; at < dump_.tokens; ++at) {
      kept.push_back(at);
      const float* const query = queries + size_t{at} * dump_.dims;
      const std::vector<uint32_t> all = All(at + 1);
      Weights(dump_, query, keys, all, &full_weights);
      Weights(dump_, query, keys, kept, &weights);
      const std::vector<float> full = Output(dump_, values, all, full_weights), pruned = Output(dump_, values, kept, weights);
      double difference = 0, length = 0;
      for (uint32_t d = 0; d < dump_.dims; ++d) difference += std::pow(full[d] - pruned[d], 2), length += full[d] * full[d];
      sums->errors.push_back(length == 0 ? 0 : std::sqrt(difference / length));
      for (const uint32_t token : kept) sums->mass += full_weights[token];
    }
  }

  const Dump& dump_;
  const uint32_t prompt_;
  std::map<std::pair<std::string, double>, Sums> sums_;
};

}  // namespace
}  // namespace stem

int main(int argc, char** argv) {
  stem::Dump dump;
  if (argc != 2 || !stem::Read(argv[1], &dump)) {
    std::fprintf(stderr, "retention_error FILE: a file of tests/bench/gemma_attention.py\n");
    return 2;
  }
  std::puts(stem::Measurement(dump).Run().dump(2).c_str());
  return 0;
}
