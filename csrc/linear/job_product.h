// A product in integers whose rows are made ready as its job says; what differs is how panels meet them.
#pragma once
#include "linear/job.h"
#include "linear/product.h"

namespace lowbit {

class JobProduct : public Product {
 public:
  JobProduct(const Job& job, int64_t panel_bytes) : Product(job.op.w, job.panels, panel_bytes), job_(job) {}

  int64_t unit(int64_t tasks) const override { return job_.unit(tasks); }
  int64_t room(int64_t m) const override { return room_of(m, job_.kp, job_.layout); }
  void place(int64_t m, char* memory) override { block_ = placed(m, job_.kp, job_.layout, memory); }
  void prepare(int64_t first, int64_t begin, int64_t end) const override {
    prepare_rows(block_, job_.op.x, first, begin, end, job_.treatment, job_.columns);
  }

 protected:
  Job job_;
  Prepared block_;
};

}  // namespace lowbit
