// A mask that takes positions apart into coordinates of a grid: tokens are put into boxes where that pays.
// RUN: attir opt %s --passes="permute-tokens{target=avx512}" | filecheck %s
// RUN: attir opt %s --passes="permute-tokens{target=sm_90 force=true tile=4,4}" | filecheck %s --check-prefix=FORCED

// The order of q serves k and v too; what is compared is loaded, and both results come back.
// CHECK-LABEL: sym_name = "near"
// CHECK: %order, %axis0, %axis1 = "attn.token_order"(%q) <{grid = array<i64: 64>, inner = array<i64: 4, 4>, tile = array<i64: {{[48]}}, 8>}>
// CHECK-SAME: reason = "of 4096 x 4096 scores tiles cost
// CHECK: [[Q:%q_[0-9]+]] = "attn.gather_tokens"(%q, %order)
// CHECK: [[K:%k_[0-9]+]] = "attn.gather_tokens"(%k, %order)
// CHECK: [[V:%v_[0-9]+]] = "attn.gather_tokens"(%v, %order)
// CHECK: %out, %lse = "attn.attention"([[Q]], [[K]], [[V]], %axis0, %axis1)
// CHECK-NOT: floordivsi
// CHECK: [[ROW:%[0-9]+]] = "tensor.extract"([[ROWS:%[0-9]+]], %m)
// CHECK: "tensor.extract"([[ROWS]], %n)
// CHECK: [[OUT:%out_[0-9]+]] = "attn.scatter_tokens"(%out, %order)
// CHECK: [[LSE:%lse_[0-9]+]] = "attn.scatter_tokens"(%lse, %order)
// CHECK: "func.return"([[OUT]], [[LSE]])
// FORCED-LABEL: sym_name = "near"
// FORCED: "attn.token_order"(%q) <{grid = array<i64: 64>, tile = array<i64: 4, 4>}>
"func.func"() <{function_type = (tensor<1x2x4096x64xf32>, tensor<1x2x4096x64xf32>, tensor<1x2x4096x64xf32>) -> (tensor<1x2x4096x64xf32>, tensor<1x2x4096xf32>), sym_name = "near"}> ({
^bb0(%q: tensor<1x2x4096x64xf32>, %k: tensor<1x2x4096x64xf32>, %v: tensor<1x2x4096x64xf32>):
  %out, %lse = "attn.attention"(%q, %k, %v) <{scale = 1.25e-01 : f32}> ({
  }, {
  ^bb1(%b: index, %h: index, %m: index, %n: index):
    %width = "arith.constant"() <{value = 64 : index}> : () -> index
    %reach = "arith.constant"() <{value = 8 : index}> : () -> index
    %y = "arith.floordivsi"(%m, %width) : (index, index) -> index
    %ky = "arith.floordivsi"(%n, %width) : (index, index) -> index
    %x = "arith.remsi"(%m, %width) : (index, index) -> index
    %kx = "arith.remsi"(%n, %width) : (index, index) -> index
    %dy = "arith.subi"(%y, %ky) : (index, index) -> index
    %dx = "arith.subi"(%x, %kx) : (index, index) -> index
    %ay = "math.absi"(%dy) : (index) -> index
    %ax = "math.absi"(%dx) : (index) -> index
    %ny = "arith.cmpi"(%ay, %reach) <{predicate = 2 : i64}> : (index, index) -> i1
    %nx = "arith.cmpi"(%ax, %reach) <{predicate = 2 : i64}> : (index, index) -> i1
    %both = "arith.andi"(%ny, %nx) : (i1, i1) -> i1
    "attn.yield"(%both) : (i1) -> ()
  }) : (tensor<1x2x4096x64xf32>, tensor<1x2x4096x64xf32>, tensor<1x2x4096x64xf32>) -> (tensor<1x2x4096x64xf32>, tensor<1x2x4096xf32>)
  "func.return"(%out, %lse) : (tensor<1x2x4096x64xf32>, tensor<1x2x4096xf32>) -> ()
}) : () -> ()

// Rows of the grid alone are blocks of the sequence as they are: boxes would save nothing.
// CHECK-LABEL: sym_name = "rows"
// CHECK-NOT: token_order
// CHECK: func.return
"func.func"() <{function_type = (tensor<1x2x4096x64xf32>) -> tensor<1x2x4096x64xf32>, sym_name = "rows"}> ({
^bb0(%q: tensor<1x2x4096x64xf32>):
  %out, %lse = "attn.attention"(%q, %q, %q) <{scale = 1.25e-01 : f32}> ({
  }, {
  ^bb1(%b: index, %h: index, %m: index, %n: index):
    %width = "arith.constant"() <{value = 128 : index}> : () -> index
    %y = "arith.floordivsi"(%m, %width) : (index, index) -> index
    %ky = "arith.floordivsi"(%n, %width) : (index, index) -> index
    %same = "arith.cmpi"(%y, %ky) <{predicate = 0 : i64}> : (index, index) -> i1
    "attn.yield"(%same) : (i1) -> ()
  }) : (tensor<1x2x4096x64xf32>, tensor<1x2x4096x64xf32>, tensor<1x2x4096x64xf32>) -> (tensor<1x2x4096x64xf32>, tensor<1x2x4096xf32>)
  "func.return"(%out) : (tensor<1x2x4096x64xf32>) -> ()
}) : () -> ()

// A mask by position alone has no grid, which force does not change.
// FORCED-LABEL: sym_name = "causal"
// FORCED-NOT: token_order
// FORCED: func.return
"func.func"() <{function_type = (tensor<1x2x4096x64xf32>) -> tensor<1x2x4096x64xf32>, sym_name = "causal"}> ({
^bb0(%q: tensor<1x2x4096x64xf32>):
  %out, %lse = "attn.attention"(%q, %q, %q) <{scale = 1.25e-01 : f32}> ({
  }, {
  ^bb1(%b: index, %h: index, %m: index, %n: index):
    %seen = "arith.cmpi"(%n, %m) <{predicate = 3 : i64}> : (index, index) -> i1
    "attn.yield"(%seen) : (i1) -> ()
  }) : (tensor<1x2x4096x64xf32>, tensor<1x2x4096x64xf32>, tensor<1x2x4096x64xf32>) -> (tensor<1x2x4096x64xf32>, tensor<1x2x4096xf32>)
  "func.return"(%out) : (tensor<1x2x4096x64xf32>) -> ()
}) : () -> ()

// A region that reads the row before its own would need to know where that went.
// FORCED-LABEL: sym_name = "shifted"
// FORCED-NOT: token_order
// FORCED: func.return
"func.func"() <{function_type = (tensor<1x2x64x16xf32>) -> tensor<1x2x64x16xf32>, sym_name = "shifted"}> ({
^bb0(%q: tensor<1x2x64x16xf32>):
  %out, %lse = "attn.attention"(%q, %q, %q) <{scale = 2.5e-01 : f32}> ({
  }, {
  ^bb1(%b: index, %h: index, %m: index, %n: index):
    %width = "arith.constant"() <{value = 8 : index}> : () -> index
    %x = "arith.remsi"(%m, %width) : (index, index) -> index
    %kx = "arith.remsi"(%n, %width) : (index, index) -> index
    %same = "arith.cmpi"(%x, %kx) <{predicate = 0 : i64}> : (index, index) -> i1
    "attn.yield"(%same) : (i1) -> ()
  }, {}, {}, {
  ^bb2(%b: index, %h: index, %m: index, %d: index, %rows: tensor<1x2x64x16xf32>):
    %one = "arith.constant"() <{value = 1 : index}> : () -> index
    %zero = "arith.constant"() <{value = 0 : index}> : () -> index
    %before = "arith.subi"(%m, %one) : (index, index) -> index
    %row = "arith.maxsi"(%before, %zero) : (index, index) -> index
    %e = "tensor.extract"(%rows, %b, %h, %row, %d) : (tensor<1x2x64x16xf32>, index, index, index, index) -> f32
    "attn.yield"(%e) : (f32) -> ()
  }) : (tensor<1x2x64x16xf32>, tensor<1x2x64x16xf32>, tensor<1x2x64x16xf32>) -> (tensor<1x2x64x16xf32>, tensor<1x2x64xf32>)
  "func.return"(%out) : (tensor<1x2x64x16xf32>) -> ()
}) : () -> ()
