// `stemctl profile` against servers that answer, fail, stall and lie: it ends in time, and says what happened.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/ctl/profile/measure.h"
#include "services/ctl/profile/verdict.h"

namespace stem::profile {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;

std::string Event(const nlohmann::json& chunk) { return absl::StrCat("data: ", chunk.dump(), "\n\n"); }

// A small endpoint. What a completion streams is `answer`; it may be changed while the server runs.
class Server {
 public:
  using Answer = std::function<bool(const nlohmann::json& body, httplib::DataSink& sink)>;

  explicit Server(Answer answer) : answer_(std::move(answer)) {
    server_.new_task_queue = [] { return new httplib::ThreadPool(16); };
    server_.Get("/v1/models", [](const httplib::Request&, httplib::Response& response) {
      response.set_content(R"({"data":[{"id":"m","max_model_len":4096,"owned_by":"test"}]})", "application/json");
    });
    server_.Get("/version", [](const httplib::Request&, httplib::Response& response) { response.set_content(R"({"version":"1.2"})", "application/json"); });
    server_.Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
      response.set_content(absl::StrCat("vllm:prefix_cache_queries_total ", asked_.load(), "\nvllm:prefix_cache_hits_total ", hits_.load(), "\n"),
                           "text/plain");
    });
    server_.Post("/v1/completions", [this](const httplib::Request& request, httplib::Response& response) { Complete(request, response); });
    port_ = server_.bind_to_any_port("127.0.0.1");
    thread_ = std::jthread([this] { server_.listen_after_bind(); });
    while (!server_.is_running()) absl::SleepFor(absl::Milliseconds(1));
  }
  ~Server() { server_.stop(); }

  std::string url() const { return absl::StrCat("http://127.0.0.1:", port_); }
  std::atomic<int> asked_ = 0, hits_ = 0;

 private:
  void Complete(const httplib::Request& request, httplib::Response& response) {
    const nlohmann::json body = nlohmann::json::parse(request.body, nullptr, false);
    const bool good = body.is_object() && body["model"] == "m" && body["prompt"].is_string() && body["max_tokens"].is_number_unsigned() &&
                      body["max_tokens"] < 100000;
    if (!good) {
      response.status = 400;
      response.set_content(R"({"error":"bad request"})", "application/json");
      return;
    }
    response.set_chunked_content_provider("text/event-stream", [this, body](size_t, httplib::DataSink& sink) { return answer_(body, sink); });
  }

  const Answer answer_;
  httplib::Server server_;
  int port_ = 0;
  std::jthread thread_;
};

void Write(httplib::DataSink& sink, const std::string& text) { sink.write(text.data(), text.size()); }

// `max_tokens` tokens, as asked.
bool Answer(const nlohmann::json& body, httplib::DataSink& sink) {
  const uint64_t tokens = body["max_tokens"];
  for (uint64_t i = 0; i < tokens; ++i) {
    Write(sink, Event({{"choices", {{{"text", "x"}, {"logprobs", {{"tokens", {"x"}}, {"token_logprobs", {-0.25}}}}}}}}));
  }
  Write(sink, Event({{"choices", nlohmann::json::array()}, {"usage", {{"prompt_tokens", 64}, {"completion_tokens", tokens}}}}));
  Write(sink, "data: [DONE]\n\n");
  sink.done();
  return true;
}

MeasureOptions Options() {
  MeasureOptions options;
  options.rounds = 2;
  options.output_tokens = 4;
  options.concurrency = 3;
  options.limit = absl::Seconds(20);
  return options;
}

absl::StatusOr<Record> Profile(const std::string& url, const MeasureOptions& options) {
  const absl::StatusOr<Endpoint> endpoint = Endpoint::Parse(url, "", options.limit);
  if (!endpoint.ok()) return endpoint.status();
  return Measure(*endpoint, options);
}

// 2 rounds x 3 lengths, cold and warm, 4 turns, 3 at once, 5 malformed, 4 fixed.
TEST(ProfileTest, AGoodEndpointIsMeasuredWhole) {
  Server server(Answer);
  const absl::StatusOr<Record> record = Profile(server.url(), Options());
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_TRUE(record->whole);
  EXPECT_EQ(record->engine, "test");
  EXPECT_EQ(record->version, "1.2");
  EXPECT_EQ(record->requests.size(), 2u * 3 * 2 + 4 + 3 + 5 + 4);
  for (const Request& request : record->requests) {
    EXPECT_TRUE(request.answer.ok()) << request.phase << ": " << request.answer.error;
    EXPECT_TRUE(request.answer.oddities.empty()) << request.phase << ": " << request.answer.oddities.front();
  }
  EXPECT_GT(record->memory.before_bytes, 0u);  // the server is this process
  EXPECT_EQ(record->counters.at("average warm").hits_tokens, 0);
  EXPECT_EQ(record->requests.back().answer.logprobs.size(), 32u);
  EXPECT_EQ(record->prompt_set.size(), 64u);
}

TEST(ProfileTest, AnEndpointThatStopsAnsweringIsGivenUp) {
  std::atomic<int> answered = 0;
  Server server([&](const nlohmann::json& body, httplib::DataSink& sink) {
    if (++answered <= 8) return Answer(body, sink);
    Write(sink, "data: {\"error\": {\"message\": \"engine is dead\"}}\n\n");
    sink.done();
    return true;
  });
  const absl::StatusOr<Record> record = Profile(server.url(), Options());
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_FALSE(record->whole);
  EXPECT_THAT(record->notes, Contains(AllOf(HasSubstr("gave up after 3"), HasSubstr("engine is dead"))));
  EXPECT_THAT(RecordText(*record), AllOf(HasSubstr("NOT WHOLE"), HasSubstr("requests failed")));
}

// Sends a byte now and then, for ever: each read succeeds.
TEST(ProfileTest, ASlowDripIsCutOff) {
  Server server([&](const nlohmann::json&, httplib::DataSink& sink) {
    Write(sink, ":\n");
    absl::SleepFor(absl::Milliseconds(20));
    return sink.is_writable();
  });
  MeasureOptions options = Options();
  options.limit = absl::Milliseconds(300);
  const absl::StatusOr<Record> record = Profile(server.url(), options);
  EXPECT_EQ(record.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(record.status().message(), HasSubstr("no whole answer within 300ms"));
}

TEST(ProfileTest, AFloodIsCutOff) {
  const std::string much = Event({{"choices", {{{"text", std::string(1 << 20, 'x')}}}}});
  Server server([&](const nlohmann::json&, httplib::DataSink& sink) {
    Write(sink, much);
    return sink.is_writable();
  });
  const absl::StatusOr<Record> record = Profile(server.url(), Options());
  EXPECT_THAT(record.status().message(), HasSubstr("more than 64 MiB"));
}

// Counts wrongly, claims cached tokens that the prompt does not have, and generates more than was asked.
TEST(ProfileTest, LiesAreTold) {
  Server server([](const nlohmann::json&, httplib::DataSink& sink) {
    for (int i = 0; i < 9; ++i) Write(sink, Event({{"choices", {{{"text", "x"}}}}}));
    Write(sink, Event({{"choices", nlohmann::json::array()},
                       {"usage", {{"prompt_tokens", 5}, {"completion_tokens", 3}, {"prompt_tokens_details", {{"cached_tokens", 50}}}}}}));
    sink.done();
    return true;
  });
  const absl::StatusOr<Record> record = Profile(server.url(), Options());
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_THAT(RecordText(*record), AllOf(HasSubstr("usage says 3 tokens, 9 pieces came"), HasSubstr("9 tokens for max_tokens 4"),
                                         HasSubstr("did not end with [DONE]")));
}

TEST(ProfileTest, NobodyThereAndNoEndpointAreNamed) {
  EXPECT_THAT(Profile("http://127.0.0.1:1", Options()).status().message(), HasSubstr("127.0.0.1:1/v1/models"));
  httplib::Server pages;
  pages.Get(".*", [](const httplib::Request&, httplib::Response& response) { response.set_content("<html>", "text/html"); });
  const int port = pages.bind_to_any_port("127.0.0.1");
  std::jthread thread([&] { pages.listen_after_bind(); });
  while (!pages.is_running()) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_THAT(Profile(absl::StrCat("http://127.0.0.1:", port), Options()).status().message(), HasSubstr("lists no models: <html>"));
  pages.stop();
}

// Accepts, and says nothing at all.
TEST(ProfileTest, SilenceEndsInTime) {
  const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(::listen(listener, 8), 0);
  socklen_t size = sizeof(address);
  ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
  MeasureOptions options = Options();
  options.limit = absl::Milliseconds(200);
  EXPECT_FALSE(Profile(absl::StrCat("http://127.0.0.1:", ntohs(address.sin_port)), options).ok());
  ::close(listener);
}

TEST(ProfileTest, AnInterruptedProfileAsksOnlyWhatIsLeft) {
  const std::string journal = (std::filesystem::temp_directory_path() / absl::StrCat("stem-journal-", ::getpid())).string();
  std::atomic<int> answered = 0;
  std::atomic<bool> alive = true;
  Server server([&](const nlohmann::json& body, httplib::DataSink& sink) {
    ++answered;
    if (alive) return Answer(body, sink);
    sink.done();
    return true;
  });
  MeasureOptions options = Options();
  options.journal = journal;
  options.seed = 1;
  options.on_request = [&](uint64_t done, uint64_t) { alive = done < 5; };
  const absl::StatusOr<Record> first = Profile(server.url(), options);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_FALSE(first->whole);
  EXPECT_TRUE(std::filesystem::exists(journal));
  alive = true;
  options.on_request = nullptr;
  options.seed = 2;
  answered = 0;
  const absl::StatusOr<Record> second = Profile(server.url(), options);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_THAT(second->notes, Contains(HasSubstr("went on after an interruption")));
  EXPECT_FALSE(std::filesystem::exists(journal));
}

TEST(ProfileTest, UrlsAndOptionsOutOfRangeAreNamed) {
  for (const char* url : {"", "localhost:8000", "ftp://a", "http://", "http://a:0", "http://a:99999", "http://a:x"}) {
    EXPECT_EQ(Endpoint::Parse(url, "", absl::Seconds(1)).status().code(), absl::StatusCode::kInvalidArgument) << url;
  }
  const absl::StatusOr<Endpoint> endpoint = Endpoint::Parse("https://[::1]/openai/v1/", "", absl::Seconds(1));
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  EXPECT_EQ(endpoint->origin(), "https://[::1]:443");
  EXPECT_EQ(endpoint->prefix(), "/openai/v1");
  MeasureOptions options = Options();
  options.rounds = 0;
  EXPECT_THAT(Profile("http://127.0.0.1:1", options).status().message(), HasSubstr("--rounds 0"));
  options = Options();
  options.api = "telepathy";
  EXPECT_THAT(Profile("http://127.0.0.1:1", options).status().message(), HasSubstr("--api telepathy"));
}

}  // namespace
}  // namespace stem::profile
