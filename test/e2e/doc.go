// SPDX-License-Identifier: Apache-2.0

// Package e2e tests Tandem as its users meet it: installed from its manifests on a real cluster, asked for Services through the API, and
// judged by the packets on the LAN, the routes in a router and what kubectl prints.
//
// The tests need the build tag e2e, root and the images of `make images`. TestMain brings up one dual-stack lab for all tests, see
// package lab, and takes it down after them. With TANDEM_E2E_KEEP=1 it stays, and is used again by the next run. TANDEM_E2E_LAB names
// the lab where it is not to be e2e. Four more come and go with their own tests: two of one family each, and two without Tandem to install it on.
//
// A test has a namespace and a pool of its own, and leaves every node ready. It waits for conditions. How long clients had no answer, how fast
// addresses are given and how much memory it takes is logged. Two things alone are to happen in time: an address is given and released within two
// seconds (promptly), and does not move before the grace of a speaker that restarts is over. TANDEM_SOAK says how often the scenarios in
// soak_test.go are repeated, each once by default, and a table at the end has their figures. With TANDEM_FAULTS=1 all faults of why_test.go are made.
package e2e
