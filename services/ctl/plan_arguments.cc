#include "services/ctl/plan_arguments.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/ctl/planner/model_table.h"
#include "services/runtime/config.h"

namespace stem {
namespace {

absl::Status ReadGpu(PlanArguments* arguments) {
  planner::Gpu gpu = arguments->numbers;
  if (!arguments->gpu.empty()) {
    STEM_ASSIGN(gpu, planner::FindGpu(arguments->gpu));
    const planner::Gpu& numbers = arguments->numbers;
    if (numbers.memory_gib != 0) gpu.memory_gib = numbers.memory_gib;
    if (numbers.bandwidth_gb_s != 0) gpu.bandwidth_gb_s = numbers.bandwidth_gb_s;
    if (numbers.dense_bf16_tflops != 0) gpu.dense_bf16_tflops = numbers.dense_bf16_tflops;
  } else if (gpu.memory_gib == 0) {
    if (gpu.bandwidth_gb_s == 0 && gpu.dense_bf16_tflops == 0) return absl::OkStatus();
    return absl::InvalidArgumentError("--gpu-bandwidth and --gpu-tflops need --gpu-memory-gib or --gpu");
  }
  arguments->options.gpu = gpu;
  return absl::OkStatus();
}

}  // namespace

void AddModelOptions(CLI::App& command, PlanArguments& arguments) {
  planner::PlanOptions& options = arguments.options;
  command.add_option("--config", arguments.config, "the model's config.json, as Hugging Face keeps it");
  command.add_option("--model", arguments.model,
                     absl::StrCat("or one of ", absl::StrJoin(planner::ModelNames(), ", ")));
  command.add_option("--kv-dtype", arguments.kv_dtype, planner::KvDtypeWords())->capture_default_str();
  command.add_option("--weights", options.weights, "dtype of weights; default: the config's");
  command.add_option("--tensor-parallel,--tp", options.parallel.tensor, "GPUs a layer is split over")
      ->capture_default_str();
  command.add_option("--pipeline-parallel,--pp", options.parallel.pipeline, "GPUs layers are shared out to")
      ->capture_default_str();
  command
      .add_option("--context", options.contexts,
                  "tokens of a request, e.g. 6000,24000: typical first, then p95, longest")
      ->delimiter(',')
      ->check(CLI::Range(1.0, 16777216.0));
  command.add_option("--concurrency", options.concurrency, "requests at a time")->capture_default_str();
  command.add_option("--engine-block", options.holding.engine_block_tokens, "tokens of an engine's block")
      ->capture_default_str();
  command.add_option("--draft-tokens", options.holding.draft_tokens, "of speculative decoding")->capture_default_str();
}

void AddMachineOptions(CLI::App& command, PlanArguments& arguments) {
  planner::PlanOptions& options = arguments.options;
  command.add_option("--gpu", arguments.gpu, absl::StrCat("one of ", planner::GpuNames()));
  command.add_option("--gpu-memory-gib", arguments.numbers.memory_gib, "memory of a GPU, GiB");
  command.add_option("--gpu-bandwidth", arguments.numbers.bandwidth_gb_s, "of its memory, GB/s");
  command.add_option("--gpu-tflops", arguments.numbers.dense_bf16_tflops, "dense bf16");
  command.add_option("--gpu-utilization", options.gpu_utilization, "share of it that the engine takes")
      ->capture_default_str();
  command.add_option("--activation-gib", arguments.activation_gib, "instead of the allowance");
  AddBytesOption(command, "--kv-memory", options.kv_memory_bytes, {}, "for KV on each GPU, instead of what is left");
  command.add_option("--steps-at-a-time", options.steps_at_a_time, "that the engine schedules; 2 = asynchronously")
      ->capture_default_str();
  command.add_option("--chunk-tokens", options.chunk_tokens, "prefilled in a step")->capture_default_str();
  AddBytesOption(command, "--dram", options.dram_bytes, {}, "Stemcache memory, all nodes");
  AddBytesOption(command, "--ssd", options.ssd_bytes, {}, "Stemcache SSD, all nodes");
  command.add_option("--block-tokens", options.block_tokens, "tokens of a Stemcache block")->capture_default_str();
}

absl::StatusOr<planner::ModelShape> ReadPlanArguments(PlanArguments* arguments) {
  if (arguments->config.empty() == arguments->model.empty()) {
    return absl::InvalidArgumentError("give one of --config FILE and --model NAME");
  }
  STEM_ASSIGN(arguments->options.kv, planner::ParseKvDtype(arguments->kv_dtype));
  STEM_TRY(ReadGpu(arguments));
  if (arguments->activation_gib != -1) arguments->options.activation_gib = arguments->activation_gib;
  return arguments->model.empty() ? planner::ReadModel(arguments->config) : planner::FindModel(arguments->model);
}

}  // namespace stem
