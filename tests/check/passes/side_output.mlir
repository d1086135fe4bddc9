// RUN: attir opt %s --passes="side-output{of=lse}" --verify-each | filecheck %s --check-prefix=LSE
// RUN: attir opt %s --passes="side-output{of=entropy part=true}" --verify-each | filecheck %s --check-prefix=ENTROPY
// RUN: attir opt %s --passes="side-output{of=column power=2}" --verify-each | filecheck %s --check-prefix=COLUMN
// RUN: attir opt %s --passes="side-output{of=largest block=32}" --verify-each | filecheck %s --check-prefix=LARGEST
// RUN: attir opt %s --passes="side-output{of=column},analyze-mask,plan{target=sm_90},lower-attention,dce" | filecheck %s --check-prefix=KERNEL

// Values have no width any more; nothing else changes.
// LSE: ^bb0(%q: {{.*}}, %k: {{.*}}, %v: tensor<?x?x?x0xf16, #attir.sym<B, K, N>>, %place: tensor<4xi64>):
// LSE: "attn.attention"(%q, %k, %v, %place) <{group = 2 : i64, normaliser = "softmax", scale = 2.5e-01 : f32}> ({
// LSE-NEXT: }, {
// LSE: %kept = "arith.cmpi"(%n, %m) <{predicate = 3 : i64}>
// LSE: "func.return"(%out, %lse)

// log p + log -log p, both kept finite; rows count from where the part begins.
// ENTROPY: [[ROW:%[0-9]+]] = "tensor.extract"(%row_lse_1, %b, %h, %m)
// ENTROPY: [[P:%[0-9]+]] = "arith.subf"(%s, [[ROW]])
// ENTROPY: [[NEGATIVE:%[0-9]+]] = "arith.minimumf"([[P]]
// ENTROPY: [[FINITE:%[0-9]+]] = "arith.maximumf"([[NEGATIVE]]
// ENTROPY: [[MINUS:%[0-9]+]] = "arith.negf"([[FINITE]])
// ENTROPY: [[SURPRISE:%[0-9]+]] = "arith.maximumf"([[MINUS]]
// ENTROPY: [[LOG:%[0-9]+]] = "math.log"([[SURPRISE]])
// ENTROPY: [[SUM:%[0-9]+]] = "arith.addf"([[FINITE]], [[LOG]])
// ENTROPY: "attn.yield"([[SUM]])
// ENTROPY: [[M:%[0-9]+]] = "arith.addi"(%m_1
// ENTROPY: "arith.cmpi"(%n_1, [[M]])

// Keys are the rows, the mask is turned around, groups are gone; 2 log p.
// COLUMN: "attn.attention"(%q, %k, %v, %place, %row_lse) <{group = 1 : i64
// COLUMN: [[ROW:%[0-9]+]] = "tensor.extract"(%row_lse_1, %b, %h, %n)
// COLUMN: [[P:%[0-9]+]] = "arith.subf"(%s, [[ROW]])
// COLUMN: "arith.mulf"([[P]]
// COLUMN: %kept = "arith.cmpi"(%m_1, %n_1) <{predicate = 3 : i64}>

// Batches of keys are blocks of 32.
// LARGEST: normaliser = "max"
// LARGEST: [[BLOCK:%[0-9]+]] = "arith.addi"(%b_1
// LARGEST: [[FIRST:%[0-9]+]] = "arith.muli"([[BLOCK]]
// LARGEST: [[N:%[0-9]+]] = "arith.addi"(%n_1, [[FIRST]])
// LARGEST: "arith.cmpi"([[N]]

// The kernel loads no values and carries a maximum and a sum alone; tiles above the diagonal are skipped.
// KERNEL: "tile.kernel"
// KERNEL: "scf.for"({{.*}}%row_max{{[_0-9]*}}, %row_sum{{[_0-9]*}}) ({
// KERNEL-NOT: v_tile
// KERNEL: "tile.dot"
// KERNEL-NOT: "tile.dot"
// KERNEL: "scf.yield"
"builtin.module"() ({
  "func.func"() <{function_type = (tensor<?x?x?x16xf16, #attir.sym<B, H, M>>, tensor<?x?x?x16xf16, #attir.sym<B, K, N>>, tensor<?x?x?x16xf16, #attir.sym<B, K, N>>) -> (tensor<?x?x?x16xf16, #attir.sym<B, H, M>>), sym_name = "causal"}> ({
^bb0(%q: tensor<?x?x?x16xf16, #attir.sym<B, H, M>>, %k: tensor<?x?x?x16xf16, #attir.sym<B, K, N>>, %v: tensor<?x?x?x16xf16, #attir.sym<B, K, N>>):
  %out, %lse = "attn.attention"(%q, %k, %v) <{group = 2 : i64, scale = 2.5e-01 : f32}> ({
  }, {
  ^bb1(%b: index, %h: index, %m: index, %n: index):
    %kept = "arith.cmpi"(%n, %m) <{predicate = 3 : i64}> : (index, index) -> i1
    "attn.yield"(%kept) : (i1) -> ()
  }) : (tensor<?x?x?x16xf16, #attir.sym<B, H, M>>, tensor<?x?x?x16xf16, #attir.sym<B, K, N>>, tensor<?x?x?x16xf16, #attir.sym<B, K, N>>) -> (tensor<?x?x?x16xf16, #attir.sym<B, H, M>>, tensor<?x?x?xf32, #attir.sym<B, H, M>>)
  "func.return"(%out) : (tensor<?x?x?x16xf16, #attir.sym<B, H, M>>) -> ()
}) : () -> ()
}) : () -> ()
