# The simulated kernel next to the real one.
if(COPSE_TEST_SIMULATION)
    copse_test(parity LIBS copse_sim_internal)
endif()
