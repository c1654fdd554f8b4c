#include "storage/transport/progress_loop.h"

#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/check.h"

namespace stem {
namespace {

constexpr size_t kCommandsPerTurn = 256;  // then the driver has its turn again
// Between two glances: at 10 GB/s 1 MB, of sockets that hold four (README.md, decisions).
constexpr timespec kGlance{.tv_sec = 0, .tv_nsec = 100'000};
constexpr unsigned long kTimerSlackNs = 1000;  // of 50,000: else a glance comes half as late again
constexpr int kGlancesMax = 50;  // that saw nothing: whoever is awaited has stopped, and is slept for

// Of one Run, shared by the caller, who may leave at its deadline, and the thread.
struct Rendezvous {
  Mutex mutex;
  CondVar changed;
  bool begun ABSL_GUARDED_BY(mutex) = false;
  bool ended ABSL_GUARDED_BY(mutex) = false;
  bool abandoned ABSL_GUARDED_BY(mutex) = false;
};

absl::Status Watch(int epoll_fd, int fd) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = fd;
  if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("epoll_ctl on descriptor ", fd, ": ", std::strerror(errno)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ProgressLoop>> ProgressLoop::Start(ProgressDriver& driver, size_t commands_max) {
  STEM_CHECK(commands_max > 0);
  const int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  const int event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  absl::Status watched = epoll_fd < 0 || event_fd < 0
                             ? absl::UnavailableError(absl::StrCat("epoll or eventfd: ", std::strerror(errno)))
                             : Watch(epoll_fd, event_fd);
  if (watched.ok()) watched = Watch(epoll_fd, driver.wake_fd());
  if (!watched.ok()) {
    if (epoll_fd >= 0) close(epoll_fd);
    if (event_fd >= 0) close(event_fd);
    return watched;
  }
  return std::unique_ptr<ProgressLoop>(new ProgressLoop(driver, commands_max, epoll_fd, event_fd));
}

ProgressLoop::ProgressLoop(ProgressDriver& driver, size_t commands_max, int epoll_fd, int event_fd)
    : driver_(driver), commands_max_(commands_max), epoll_fd_(epoll_fd), event_fd_(event_fd) {
  thread_ = std::thread([this] { Main(); });
}

ProgressLoop::~ProgressLoop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    eventfd_write(event_fd_, 1);
  }
  thread_.join();
  close(epoll_fd_);
  close(event_fd_);
}

absl::Status ProgressLoop::Post(std::function<void()> command) {
  MutexLock lock(mutex_);
  STEM_CHECK(!stopping_);
  if (commands_.size() >= commands_max_) {
    return absl::ResourceExhaustedError(absl::StrCat("the transport's queue holds ", commands_max_,
                                                     " commands; try again later"));
  }
  commands_.push_back(std::move(command));
  // Only the first of a burst pays the system call: the thread takes all that is queued.
  if (commands_.size() == 1) eventfd_write(event_fd_, 1);
  return absl::OkStatus();
}

absl::Status ProgressLoop::Run(std::function<void()> command, absl::Time deadline) {
  STEM_CHECK(std::this_thread::get_id() != thread_.get_id());
  const absl::Status late = absl::DeadlineExceededError("the transport's thread was busy until the deadline");
  auto rendezvous = std::make_shared<Rendezvous>();
  {
    MutexLock lock(mutex_);
    while (commands_.size() >= commands_max_) {
      if (absl::Now() >= deadline) return late;
      room_.WaitFor(mutex_, deadline - absl::Now());
    }
    commands_.push_back([rendezvous, command = std::move(command)] {
      {
        MutexLock own(rendezvous->mutex);
        if (rendezvous->abandoned) return;
        rendezvous->begun = true;
      }
      command();
      MutexLock own(rendezvous->mutex);
      rendezvous->ended = true;
      rendezvous->changed.NotifyAll();
    });
    eventfd_write(event_fd_, 1);
  }
  MutexLock lock(rendezvous->mutex);
  while (!rendezvous->ended) {
    if (rendezvous->begun || deadline == absl::InfiniteFuture()) {
      rendezvous->changed.Wait(rendezvous->mutex);
    } else if (absl::Now() >= deadline) {
      rendezvous->abandoned = true;
      return late;
    } else {
      rendezvous->changed.WaitFor(rendezvous->mutex, deadline - absl::Now());
    }
  }
  return absl::OkStatus();
}

absl::Duration ProgressLoop::CpuTime() const {
  clockid_t clock;
  timespec used{};
  STEM_CHECK(pthread_getcpuclockid(const_cast<std::thread&>(thread_).native_handle(), &clock) == 0);
  STEM_CHECK(clock_gettime(clock, &used) == 0);
  return absl::DurationFromTimespec(used);
}

void ProgressLoop::Main() {
  pthread_setname_np(pthread_self(), "stem-ucx");
  prctl(PR_SET_TIMERSLACK, kTimerSlackNs);
  for (int glances = 0;;) {
    const bool ran = RunCommands();
    const bool stepped = driver_.Step();
    if (ran || stepped) {
      glances = 0;
      continue;
    }
    {
      MutexLock lock(mutex_);
      if (!commands_.empty()) continue;
      if (stopping_) return;
    }
    if (glances < kGlancesMax && driver_.Streaming()) {
      ++glances;
      Glance();
      continue;
    }
    // After Arm, and a queue that was empty after Step, whatever comes makes a descriptor readable.
    if (driver_.Arm()) Sleep();
  }
}

bool ProgressLoop::RunCommands() {
  std::deque<std::function<void()>> taken;
  {
    MutexLock lock(mutex_);
    if (commands_.size() <= kCommandsPerTurn) {
      taken.swap(commands_);
    } else {
      const auto end = commands_.begin() + kCommandsPerTurn;
      std::move(commands_.begin(), end, std::back_inserter(taken));
      commands_.erase(commands_.begin(), end);
    }
    if (!taken.empty()) room_.NotifyAll();
  }
  for (const auto& command : taken) command();
  return !taken.empty();
}

void ProgressLoop::Sleep() {
  int timeout_ms = -1;
  if (const auto next = driver_.NextDeadline(); next != std::chrono::steady_clock::time_point::max()) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(next - std::chrono::steady_clock::now());
    timeout_ms = static_cast<int>(std::clamp<int64_t>(left.count(), 0, 60'000));
  }
  std::array<epoll_event, 2> events;
  epoll_wait(epoll_fd_, events.data(), static_cast<int>(events.size()), timeout_ms);
  eventfd_t drained = 0;
  eventfd_read(event_fd_, &drained);
}

// What the driver waits for wakes nobody here, and so costs who sends it nothing.
void ProgressLoop::Glance() {
  pollfd command{.fd = event_fd_, .events = POLLIN, .revents = 0};
  if (ppoll(&command, 1, &kGlance, nullptr) <= 0) return;
  eventfd_t drained = 0;
  eventfd_read(event_fd_, &drained);
}

}  // namespace stem
